"""This package's own methods: perturb the selected coordinates, then repair them. What topk and its kin share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from fgunlearn.arguments import check_choice
from fgunlearn.batches import Loader, LossFunction, count_batches, known_size, without_samples
from fgunlearn.methods.descent import checked
from fgunlearn.perturb import Perturbation, Shrink
from fgunlearn.selection import ScoreKind, Strategy
from fgunlearn.unlearning import Repair, unlearn
from fgunlearn.unlearning.result import Result
from fgunlearn.unlearning.unlearn import check_options

SCORE: ScoreKind = "fisher_ratio"


@dataclass(frozen=True)
class Recipe:
    """How many coordinates, what is done to them first, and then.

    A step with a forget term has one ``forget_part``-th of a batch of D_u.
    """

    ratio: float
    perturb: Perturbation | None
    repair: Repair
    forget_part: int = 8


PERTURB_REPAIR = Recipe(
    # Shrink(0.0) is Zero for the weights of layers; normalisation scales stay, without which nothing can be repaired.
    ratio=0.5,
    perturb=Shrink(0.0),
    repair=Repair(epochs=2, lr=0.2, momentum=0.8, weight_decay=5e-4, schedule="onecycle", warmup=0.15),
)
"""The paper's (arXiv 2401.04385): perturb, and repair on the remaining data. For batches and losses of any form."""

FORGET_TERM = Recipe(
    ratio=0.7,
    perturb=Shrink(0.5),
    repair=replace(PERTURB_REPAIR.repair, forget="neighbour", weight=0.2, forget_share=0.5),
)
"""With a forget term beside the repair, and its stop rule: the best found, for cross entropy on ``(x, y)``."""

HELDOUT = Recipe(
    ratio=0.7,
    perturb=None,
    repair=replace(PERTURB_REPAIR.repair, lr=0.1, forget="heldout", weight=0.5, neighbours=30),
    forget_part=2,
)
"""Made to look like held-out data: where a model is much surer of what it was trained on than of what it never saw."""


def unlearn_by(
    strategy_of: Callable[[float | None], Strategy],
    model: nn.Module,
    forget_loader: Loader,
    retain_loader: Loader,
    *,
    ratio: float | None,
    k: int | None,
    perturb: Perturbation | Literal["default"] | None,
    repair: Repair | None,
    loss_fn: LossFunction | None,
    heldout_loader: Loader | None,
    seed: int,
    progress: bool,
) -> Result:
    """:func:`fgunlearn.unlearn` with the strategy for a ratio, and for what is left open the recipe that fits the loss.

    Raises:
        TypeError, ValueError: what is wrong with which argument; it diverged.
    """
    checked(model, loss_fn, seed)
    recipe = FORGET_TERM if loss_fn is None else PERTURB_REPAIR
    if isinstance(perturb, str):
        check_choice(perturb, ("default",), "perturb")
        perturb = recipe.perturb
    strategy = strategy_of(recipe.ratio if ratio is None and k is None else ratio)
    check_options(model, strategy, perturb, recipe.repair if repair is None else repair)
    if loss_fn is not None and repair is None and heldout_loader is not None:
        warnings.warn(
            "heldout_loader is not read: with a loss_fn the default repair has no forget term that it could stop; give "
            "repair=Repair(forget='ascent', ...) for one",
            stacklevel=3,
        )
    count_batches(forget_loader, "forget_loader")
    forget_batches = list(forget_loader)
    count_batches(forget_batches, "forget_loader")
    if repair is None:
        repair = replace(recipe.repair, seed=seed)
        if repair.forget != "none":
            size = next((known_size(batch) for batch in forget_batches if not without_samples(batch)), None)
            repair = replace(repair, forget_batch=max(1, (size or 1) // recipe.forget_part))
    return unlearn(
        model,
        forget_batches,
        retain_loader,
        loss_fn=loss_fn,
        strategy=strategy,
        perturb=perturb,
        repair=repair,
        heldout_loader=heldout_loader,
        progress=progress,
    )
