"""The demo's recipes, as data: two ways to unlearn, by three strategies each.

Everything that was tuned is here, and was tuned on other seeds than the demo reports.
"""

from __future__ import annotations

from dataclasses import dataclass

from fgunlearn.perturb import Perturbation, Shrink
from fgunlearn.selection import RandomK, RandomTopK, ScoreKind, Strategy, TopK
from fgunlearn.unlearning import Repair

RATIO = 0.5
SCORE: ScoreKind = "fisher_ratio"
BATCH = 32


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
        """Strategy and recipe, for tables and files."""
        return f"{self.strategy_name}, {self.recipe_name}"


def _strategies(seed: int) -> dict[str, Strategy]:
    return {
        "Top-K": TopK(RATIO, score=SCORE),
        "Random-k": RandomK(RATIO, seed=seed),
        "Random-TopK": RandomTopK(RATIO, top_share=0.5, score=SCORE, seed=seed),
    }


PAPER = Repair(epochs=2, lr=0.2, momentum=0.8, weight_decay=5e-4, schedule="onecycle", warmup=0.15)

FORGET_TERM = Repair(
    epochs=2,
    lr=0.2,
    momentum=0.8,
    weight_decay=5e-4,
    schedule="onecycle",
    warmup=0.15,
    forget="neighbour",
    weight=0.2,
    forget_share=0.5,
    forget_batch=4,
)


def recipes(seed: int) -> list[Recipe]:
    """All recipes, in the table's order; the seed is that of the random strategies."""
    ways: list[tuple[str, Perturbation | None, Repair]] = [
        ("perturb + repair", Shrink(0.0), PAPER),
        ("forget term", Shrink(0.4), FORGET_TERM),
    ]
    return [
        Recipe(recipe_name=way, strategy_name=name, strategy=strategy, perturb=perturb, repair=repair)
        for way, perturb, repair in ways
        for name, strategy in _strategies(seed).items()
    ]
