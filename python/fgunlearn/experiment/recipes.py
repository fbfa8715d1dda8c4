"""The demo's recipes, as data: two ways to unlearn, by three strategies each.

Everything that was tuned is here, and was tuned on other seeds than the demo reports.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fgunlearn.perturb import Perturbation, Shrink
from fgunlearn.selection import RandomK, RandomTopK, ScoreKind, Strategy, TopK
from fgunlearn.unlearning import Repair

SCORE: ScoreKind = "fisher_ratio"
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


@dataclass(frozen=True, kw_only=True)
class _Way:
    name: str
    ratio: float
    perturb: Perturbation | None
    repair: Repair

    def by(self, seed: int) -> list[Recipe]:
        strategies: dict[str, Strategy] = {
            "Top-K": TopK(self.ratio, score=SCORE),
            "Random-k": RandomK(self.ratio, seed=seed),
            "Random-TopK": RandomTopK(self.ratio, top_share=0.5, score=SCORE, seed=seed),
        }
        return [
            Recipe(recipe_name=self.name, strategy_name=name, strategy=s, perturb=self.perturb, repair=self.repair)
            for name, s in strategies.items()
        ]


_PLAIN = Repair(epochs=2, lr=0.2, momentum=0.8, weight_decay=5e-4, schedule="onecycle", warmup=0.15)

_WAYS = (
    # Shrink(0.0) is Zero for the weights of layers; normalisation scales stay, without which nothing can be repaired.
    _Way(name=PAPER, ratio=0.5, perturb=Shrink(0.0), repair=_PLAIN),
    _Way(
        name="forget term",
        ratio=0.7,
        perturb=Shrink(0.5),
        repair=replace(
            _PLAIN, forget="neighbour", weight=0.2, forget_share=0.5, forget_batch=4, neighbour_layer="stages.0"
        ),
    ),
)


def recipes(seed: int) -> list[Recipe]:
    """All recipes, in the table's order; the seed is that of the random strategies."""
    return [recipe for way in _WAYS for recipe in way.by(seed)]
