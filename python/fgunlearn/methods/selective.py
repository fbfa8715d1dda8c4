"""This package's own methods: perturb the selected coordinates, then repair them. What topk and its kin share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from fgunlearn.arguments import check_choice
from fgunlearn.batches import (
    Loader,
    LossFunction,
    check_read_again,
    count_batches,
    device_of,
    known_size,
    without_samples,
)
from fgunlearn.distributed.processes import processes_of
from fgunlearn.methods.descent import checked
from fgunlearn.metrics.outputs import Outputs
from fgunlearn.parameters import trainable
from fgunlearn.perturb import Perturbation, Shrink
from fgunlearn.resuming import Checkpoint
from fgunlearn.selection import ScoreKind, Strategy
from fgunlearn.selection.choose import check_memory
from fgunlearn.selection.streaming import Memory
from fgunlearn.unlearning import Repair
from fgunlearn.unlearning.changing import timed
from fgunlearn.unlearning.result import Result
from fgunlearn.unlearning.unlearn import Options, check_options, run

SCORE: ScoreKind = "fisher_ratio"


@dataclass(frozen=True)
class Recipe:
    """How many coordinates, what is done to them first, and then.

    A step with a forget term has one ``forget_part``-th of a batch of D_u.
    """

    name: str
    ratio: float
    perturb: Perturbation | None
    repair: Repair
    forget_part: int = 8


PERTURB_REPAIR = Recipe(
    name="perturb_repair",
    # Shrink(0.0) is Zero for the weights of layers; normalisation scales stay, without which nothing can be repaired.
    ratio=0.5,
    perturb=Shrink(0.0),
    repair=Repair(epochs=2, lr=0.2, momentum=0.8, weight_decay=5e-4, schedule="onecycle", warmup=0.15),
)
"""The paper's (arXiv 2401.04385): perturb, and repair on the remaining data. For batches and losses of any form."""

FORGET_TERM = Recipe(
    name="forget_term",
    ratio=0.7,
    perturb=Shrink(0.5),
    repair=replace(PERTURB_REPAIR.repair, forget="neighbour", weight=0.2, forget_share=0.5),
)
"""With a forget term beside the repair, and its stop rule: the best found, for cross entropy on ``(x, y)``."""

HELDOUT = Recipe(
    name="heldout",
    ratio=0.7,
    perturb=None,
    repair=replace(PERTURB_REPAIR.repair, lr=0.1, forget="heldout", weight=0.5, neighbours=30),
    forget_part=2,
)
"""Made to look like held-out data: where a model is much surer of what it was trained on than of what it never saw."""

RECIPES = {recipe.name: recipe for recipe in (FORGET_TERM, HELDOUT, PERTURB_REPAIR)}

_MEMORISED = 0.15
"""How much more often right on D_r than on held-out data a model is that HELDOUT is for.

It is 0 to 0.07 on digits (seeds 0 to 2, wrong labels included) and 0.3 on CIFAR-10 (seed 0); docs/recipes.md says what
either recipe does on either.
"""


def recipe_for(model: nn.Module, retain_loader: Loader, heldout_loader: Loader | None) -> Recipe:
    """The recipe with a forget term that fits how much the model has memorised.

    HELDOUT where it is right on more of the remaining data than of the held-out data by over 15 points, and FORGET_TERM
    where it isn't or there is no held-out data. As many remaining samples are looked at as there are held-out ones.

    Raises:
        TypeError, ValueError: an empty loader; batches that are not ``(x, y)`` with class numbers.
    """
    if heldout_loader is None:
        return FORGET_TERM
    count_batches(heldout_loader, "heldout_loader")
    heldout = Outputs.of(model, heldout_loader, "heldout_loader")
    remaining = Outputs.of(model, _first(retain_loader, len(heldout.labels)), "retain_loader")
    return HELDOUT if remaining.accuracy - heldout.accuracy > _MEMORISED else FORGET_TERM


def _first(loader: Loader, samples: int) -> Iterator[tuple[Any, Any]]:
    """The first batches, until they have that many samples."""
    taken = 0
    for batch in loader:
        yield batch
        taken += known_size(batch) or 0
        if taken >= samples:
            return


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
    memory: Memory = "dense",
    memory_budget: int | None = None,
    checkpoint: Checkpoint | None = None,
) -> Result:
    """:func:`fgunlearn.unlearn` with the strategy for a ratio, and for what is left open the recipe that fits the loss.

    Raises:
        TypeError, ValueError: what is wrong with which argument; it diverged.
    """
    checked(model, loss_fn, seed)
    recipe = FORGET_TERM if loss_fn is None else PERTURB_REPAIR
    if isinstance(perturb, str):
        check_choice(perturb, ("default",), "perturb")

    def options(recipe: Recipe) -> Options:
        return Options(
            strategy_of(recipe.ratio if ratio is None and k is None else ratio),
            recipe.perturb if isinstance(perturb, str) else perturb,
            replace(recipe.repair, seed=seed) if repair is None else repair,
        )

    parameters = trainable(model)
    # Sharded models have no forget term to choose: unlearn refuses both of these.
    sharded = processes_of({f"parameter {name!r}": p for name, p in parameters.items()}) is not None
    seconds: dict[str, float] = {}

    def choose(forget_batches: Sequence[Any]) -> Options:
        fitting = recipe
        if recipe is FORGET_TERM and not sharded:
            with timed(seconds, "recipe", device_of(model)):
                fitting = recipe_for(model, retain_loader, heldout_loader)
        chosen = options(fitting)
        if chosen.repair.forget != "none":
            size = next((known_size(batch) for batch in forget_batches if not without_samples(batch)), None)
            forget_batch = max(1, (size or 1) // fitting.forget_part)
            chosen = replace(chosen, repair=replace(chosen.repair, forget_batch=forget_batch))
        return chosen

    initial = options(recipe)
    check_options(model, initial.strategy, initial.perturb, initial.repair)
    check_memory(memory, memory_budget, initial.strategy)
    if loss_fn is not None and repair is None and heldout_loader is not None:
        warnings.warn(
            "heldout_loader is not read: with a loss_fn the default repair has no forget term that it could stop; give "
            "repair=Repair(forget='ascent', ...) for one",
            stacklevel=3,
        )
    check_read_again(forget_loader, "forget_loader")
    result = run(
        model,
        forget_loader,
        retain_loader,
        initial,
        loss_fn=loss_fn,
        heldout_loader=heldout_loader,
        progress=progress,
        memory=memory,
        memory_budget=memory_budget,
        checkpoint=checkpoint,
        choose=choose if repair is None else None,
    )
    result.seconds.update(seconds)
    return result
