"""The demo's recipes, as data: two ways to unlearn, by three strategies each.

What was tuned is in :mod:`fgunlearn.methods.selective`, but for the layer that neighbours are found by; all of it on
other seeds than the demo reports.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fgunlearn.methods.selective import FORGET_TERM, PERTURB_REPAIR, SCORE
from fgunlearn.perturb import Perturbation
from fgunlearn.selection import RandomK, RandomTopK, Strategy, TopK
from fgunlearn.unlearning import Repair

BATCH = 32
PAPER = "perturb + repair"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to unlearn.

    Attributes:
        recipe_name: "perturb + repair", the paper's; or "forget term", with one in the repair, and its stop rule.
        strategy_name: "Top-K", "Random-k" or "Random-TopK".
        strategy: which coordinates may change.
        perturb: what is done to them first; None for nothing.
        repair: and then. Its seed is replaced by the task's.
        batch: samples per step of the repair, and of scoring.
    """

    recipe_name: str
    strategy_name: str
    strategy: Strategy
    perturb: Perturbation | None
    repair: Repair
    batch: int = BATCH

    @property
    def name(self) -> str:
        """The strategy, and the recipe where it is not the paper's: for tables and files."""
        return self.strategy_name if self.recipe_name == PAPER else f"{self.strategy_name}, {self.recipe_name}"


# The demo's model has a better layer to find neighbours by than its first.
_LAYERED = replace(FORGET_TERM.repair, forget_batch=BATCH // FORGET_TERM.forget_part, neighbour_layer="stages.0")

_WAYS = {PAPER: PERTURB_REPAIR, "forget term": replace(FORGET_TERM, repair=_LAYERED)}


def _strategies(ratio: float, seed: int) -> dict[str, Strategy]:
    return {
        "Top-K": TopK(ratio, score=SCORE),
        "Random-k": RandomK(ratio, seed=seed),
        "Random-TopK": RandomTopK(ratio, top_share=0.5, score=SCORE, seed=seed),
    }


def recipes(seed: int) -> list[Recipe]:
    """All recipes, in the table's order; the seed is that of the random strategies."""
    return [
        Recipe(recipe_name=way, strategy_name=name, strategy=strategy, perturb=how.perturb, repair=how.repair)
        for way, how in _WAYS.items()
        for name, strategy in _strategies(how.ratio, seed).items()
    ]
