"""Relearn time: how soon a model knows the forget data again, if it is shown them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from fgunlearn.arguments import check_choice, check_count, check_number
from fgunlearn.batches import Loader, LossFunction, checked_loss, cross_entropy, with_last
from fgunlearn.metrics.outputs import Outputs

Measure = Literal["loss", "accuracy"]
NewOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Relearning:
    """How one model relearned.

    Attributes:
        steps: optimizer steps until the target was met at a check; ``max_steps`` where it never was.
        reached: whether it was.
        values: the loss or accuracy on D_u before the first step and at every check.
    """

    steps: int
    reached: bool
    values: tuple[float, ...]


@dataclass(frozen=True)
class RelearnTime:
    """What :func:`relearn_time` found.

    Attributes:
        unlearned: of the unlearned model.
        retrained: of the retrained one; None without it.
        target: the loss or accuracy on D_u to be met, by the source model's and the tolerance.
        ratio: steps of the unlearned over steps of the retrained model, a lower bound where the unlearned one never met
            the target; NaN without a retrained one, where that never met it, or met it before the first step.
    """

    unlearned: Relearning
    retrained: Relearning | None
    target: float

    @property
    def ratio(self) -> float:
        """Steps of the unlearned over steps of the retrained model."""
        if self.retrained is None or not self.retrained.reached or self.retrained.steps == 0:
            return math.nan
        return self.unlearned.steps / self.retrained.steps


def relearn_time(
    source: nn.Module,
    unlearned: nn.Module,
    forget_loader: Loader,
    retrained: nn.Module | None = None,
    *,
    measure: Measure = "loss",
    tolerance: float = 0.1,
    lr: float = 0.01,
    optimizer: NewOptimizer | None = None,
    loss_fn: LossFunction | None = None,
    max_steps: int = 1000,
    check_every: int | None = None,
) -> RelearnTime:
    """Steps of training on D_u until the model is on D_u within a tolerance of the source model again.

    The target is loss <= (1 + tolerance) * loss(source) (Golatkar et al., CVPR 2021), or accuracy >= acc(source) -
    tolerance, both on D_u in eval mode. In [0, max_steps]. The ratio to the retrained model's steps is the anamnesis
    index (Chundawat et al., Zero-shot machine unlearning, 2023), in [0, inf): 1 is what the retrained model scores, and
    what to come near; below it knowledge was left behind; above it, D_u was forgotten harder than by never seeing it.

    Where the target is met already, without a step, as accuracy is on i.i.d. forget data, this says nothing.

    Copies are trained, in train mode: the three models stay as they are.

    Args:
        source: the model before unlearning.
        unlearned: the model after it.
        forget_loader: D_u, ``(x, y)`` batches, read again for every pass and check.
        retrained: the reference; None to go without.
        measure: "loss" or "accuracy".
        tolerance: >= 0; of the loss a share of it, of the accuracy in [0, 1] units.
        lr: of plain SGD, where ``optimizer`` is None.
        optimizer: makes the optimizer from a copy's parameters.
        loss_fn: what is trained; cross entropy by default.
        max_steps: the bound, at least 1.
        check_every: steps between two looks at D_u; one pass over it when None. It is what ``steps`` is rounded up to.

    Raises:
        TypeError: batches that are not ``(x, y)``; a number that is none.
        ValueError: an empty loader, or an iterator that gives only one pass; a number out of its range; an unknown
            measure; a model that diverges on the way, or whose outputs are not logits.
    """
    check_choice(measure, get_args(Measure), "measure")
    check_number(tolerance, "tolerance", low=0.0)
    check_number(lr, "lr", low=0.0, above=True)
    check_count(max_steps, "max_steps")
    if check_every is not None:
        check_count(check_every, "check_every")
    if isinstance(forget_loader, Iterator):
        raise ValueError("forget_loader is read many times: give a loader or a list, not an iterator")

    def value_of(model: nn.Module) -> float:
        outputs = Outputs.of(model, forget_loader, "forget_loader")
        return outputs.accuracy if measure == "accuracy" else float(outputs.losses.mean())

    of_source = value_of(source)
    target = of_source - tolerance if measure == "accuracy" else (1.0 + tolerance) * of_source

    def met(value: float) -> bool:
        return value >= target if measure == "accuracy" else value <= target

    def relearned(model: nn.Module) -> Relearning:
        values = [value_of(model)]
        if met(values[0]):
            return Relearning(0, True, tuple(values))
        learner = copy.deepcopy(model)
        learner.train()
        trained = [p for p in learner.parameters() if p.requires_grad]
        stepper = torch.optim.SGD(trained, lr=lr) if optimizer is None else optimizer(trained)
        for step, (batch, pass_ends) in enumerate(_forever(forget_loader), 1):
            stepper.zero_grad(set_to_none=True)
            checked_loss((loss_fn or cross_entropy)(learner, batch)).backward()
            stepper.step()
            due = pass_ends if check_every is None else step % check_every == 0
            if due or step == max_steps:
                values.append(value_of(learner))
                if met(values[-1]):
                    return Relearning(step, True, tuple(values))
            if step == max_steps:
                break
        return Relearning(max_steps, False, tuple(values))

    return RelearnTime(relearned(unlearned), None if retrained is None else relearned(retrained), target)


def _forever(loader: Loader) -> Iterator[tuple[Any, bool]]:
    """The batches of pass after pass, and whether each is the last of its pass."""
    while True:
        yield from with_last(loader)
