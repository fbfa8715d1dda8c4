"""The demo's recipes, as data: how models are trained, and the two ways to unlearn.

Everything that was tuned is here, and was tuned on other seeds than the demo reports.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from fgunlearn.experiment.training import Training
from fgunlearn.perturb import Gaussian, Perturbation, Reset, Shrink
from fgunlearn.selection import RandomK, RandomTopK, ScoreKind, Strategy, TopK
from fgunlearn.unlearning import Repair

StrategyName = Literal["topk", "randomk", "random_topk"]
STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)
STRATEGY_TITLES: dict[StrategyName, str] = {"topk": "Top-K", "randomk": "Random-k", "random_topk": "Random-TopK"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to unlearn, but for the strategy.

    Args:
        name: in tables and files.
        ratio: share of the coordinates that may change.
        score: what Top-K and the top part of Random-TopK rank by.
        top_share: of Random-TopK.
        perturb: None for no perturbation.
        repair: its seed, like the perturbation's and the strategy's, is replaced by the task's.
        batch_size: of the remaining data in the repair, and of scoring.
        heldout: whether the repair gets held-out data for its stop rule.
    """

    name: str
    ratio: float
    score: ScoreKind = "fisher_ratio"
    top_share: float = 0.5
    perturb: Perturbation | None = None
    repair: Repair = Repair()
    batch_size: int = 32
    heldout: bool = False

    def strategy(self, name: StrategyName, seed: int) -> Strategy:
        """The strategy of that name with this recipe's ratio and score.

        Raises:
            ValueError: an unknown name.
        """
        if name == "topk":
            return TopK(self.ratio, score=self.score)
        if name == "randomk":
            return RandomK(self.ratio, seed=seed)
        if name == "random_topk":
            return RandomTopK(self.ratio, top_share=self.top_share, score=self.score, seed=seed)
        raise ValueError(f"strategy must be one of {', '.join(map(repr, STRATEGIES))}, got {name!r}")

    def seeded(self, seed: int) -> Recipe:
        """The same with this seed in the perturbation and the repair."""
        perturb = self.perturb
        if isinstance(perturb, (Gaussian, Reset)):
            perturb = replace(perturb, seed=seed)
        return replace(self, perturb=perturb, repair=replace(self.repair, seed=seed))


TRAINING = Training(widths=(16, 32, 96), epochs=30, batch_size=32, lr=0.1, momentum=0.9, weight_decay=5e-4, warmup=0.3)

CONTROL = replace(TRAINING, epochs=2, lr=0.2, momentum=0.8, warmup=0.15)
"""The control: training from scratch on D_r for no longer than a repair. A method should beat it to be worth its name."""

PAPER = Recipe(
    name="perturb, repair",
    ratio=0.5,
    perturb=Shrink(0.0),
    repair=Repair(epochs=2, lr=0.2, momentum=0.8, weight_decay=5e-4, schedule="onecycle", warmup=0.15),
)

FORGET_TERM = Recipe(
    name="forget term",
    ratio=0.5,
    perturb=Shrink(0.5),
    repair=Repair(
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
    ),
    heldout=True,
)

RECIPES: tuple[Recipe, ...] = (PAPER, FORGET_TERM)

__all__ = [
    "CONTROL",
    "FORGET_TERM",
    "PAPER",
    "RECIPES",
    "STRATEGIES",
    "STRATEGY_TITLES",
    "TRAINING",
    "Recipe",
    "StrategyName",
]
