"""The loop that most methods share: SGD over epochs, each of one or more passes over a loader."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fgunlearn.arguments import check_count, check_number, check_seed
from fgunlearn.batches import (
    Loader,
    LossFunction,
    checked_loss,
    count_batches,
    cross_entropy,
    device_of,
    known_size,
    one_pass,
)
from fgunlearn.distributed.layout import is_dtensor
from fgunlearn.optim import SparseOptimizer
from fgunlearn.parameters import trainable
from fgunlearn.progress import bar
from fgunlearn.unlearning.changing import timed
from fgunlearn.unlearning.result import DivergedError, Record, Result, check_finite
from fgunlearn.unlearning.schedule import Schedule, check_schedule, learning_rate


@dataclass(frozen=True, kw_only=True)
class Descent:
    """SGD, as data.

    Args:
        epochs: how many, >= 1.
        lr: the largest learning rate, > 0.
        momentum: of SGD, >= 0.
        nesterov: of SGD; only with momentum.
        weight_decay: of SGD, >= 0.
        schedule: "constant", "linear", "cosine" or "onecycle", as in :class:`fgunlearn.Repair`.
        warmup: share of the steps, in [0, 1); "onecycle" only.

    Raises:
        TypeError, ValueError: argument and value are named.
    """

    epochs: int
    lr: float
    momentum: float
    nesterov: bool = False
    weight_decay: float
    schedule: Schedule
    warmup: float = 0.3

    def __post_init__(self) -> None:
        check_count(self.epochs, "epochs")
        check_number(self.lr, "lr", low=0.0, above=True)
        check_number(self.momentum, "momentum", low=0.0)
        check_number(self.weight_decay, "weight_decay", low=0.0)
        check_schedule(self.schedule, self.warmup)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.SGD:
        """The optimizer of these parameters, its learning rate still to be set."""
        parameters = list(parameters)
        # On a CPU, torch's fused step (as of 2.13) leaves longer tensors of half precision as they are.
        fusible = all(p.is_cuda or p.dtype in (torch.float32, torch.float64) for p in parameters)
        sgd = torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov and self.momentum > 0,
            weight_decay=self.weight_decay,
            fused=fusible,  # the fastest there is: methods are compared by time
        )
        if self.momentum > 0:
            # As the first step would make it. A fused step fails where one parameter has it and another, which no
            # gradient has reached before, does not.
            for parameter in parameters:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd


@dataclass(frozen=True)
class Terms:
    """What one step minimises, ``loss``; how many samples it took (0 for batches that do not tell); and for the record
    its parts on D_r and D_u.
    """

    loss: Tensor
    samples: int
    retain: Tensor | None = None
    forget: Tensor | None = None


@dataclass(frozen=True)
class Pass:
    """Once over a loader of ``batches`` batches, a step each, on what ``terms(batch, done)`` says.

    ``argument`` is the loader's name in errors; ``done`` is the share of all steps of the descent taken before.
    """

    loader: Loader
    argument: str
    batches: int
    terms: Callable[[Any, float], Terms]

    @classmethod
    def over(cls, loader: Loader, argument: str, terms: Callable[[Any, float], Terms]) -> Pass:
        """Over all batches that the loader has.

        Raises:
            TypeError, ValueError: it can't be read again and again, or is empty.
        """
        return cls(loader, argument, count_batches(loader, argument), terms)

    def read(self) -> Iterator[tuple[int, Any]]:
        """The batches that have samples and their places; no more than were counted: the schedule ends there.

        A warning says so if there are fewer.

        Raises:
            ValueError: there is none.
        """
        came = 0

        def counted() -> Iterator[Any]:
            nonlocal came
            for batch in itertools.islice(self.loader, self.batches):
                came += 1
                yield batch

        yield from one_pass(counted(), self.argument)
        if came < self.batches:
            warnings.warn(
                f"{self.argument} gave {came} batches in a pass, but its length is {self.batches}: there are fewer "
                "steps than its length promises",
                stacklevel=4,
            )


def checked(model: nn.Module, loss_fn: LossFunction | None, seed: int, alone: str | None = None) -> LossFunction:
    """What every method checks: a model with parameters to train, and a seed. Returns the loss to use.

    Args:
        model: the model.
        loss_fn: the method's argument.
        seed: the method's argument.
        alone: the name of a method that one process runs on whole parameters.

    Raises:
        TypeError, ValueError: argument and value are named; a DTensor, for a method that works ``alone``.
    """
    parameters = trainable(model)
    for name, parameter in parameters.items():
        if alone is not None and is_dtensor(parameter):
            raise ValueError(
                f"{alone} works on whole parameters, in one process, and parameter {name!r} is a DTensor: use topk, "
                "randomk, random_topk or fgunlearn.unlearn, which take sharded models, or a model that is not sharded"
            )
    check_seed(seed)
    if loss_fn is not None and not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function of model and batch, or None, got {loss_fn!r}")
    return cross_entropy if loss_fn is None else loss_fn


def retain_terms(model: nn.Module, loss_fn: LossFunction) -> Callable[[Any, float], Terms]:
    """The plain loss on a batch of D_r."""

    def terms(batch: Any, done: float) -> Terms:
        loss = checked_loss(loss_fn(model, batch))
        return Terms(loss, known_size(batch) or 0, retain=loss)

    return terms


def endlessly(loader: Loader, argument: str) -> Iterator[Any]:
    """The batches of the loader that have samples, again and again.

    Raises:
        ValueError: a pass had none; the loader is called ``argument``.
    """
    while True:
        for _, batch in one_pass(loader, argument):
            yield batch


def descend(
    result: Result, descent: Descent, epochs: Sequence[Sequence[Pass]], *, phase: str, progress: bool = False
) -> None:
    """Takes the steps, in train mode; only the result's selection moves, if it has one.

    Writes time and history to the result. For the inside of
    :func:`fgunlearn.unlearning.changing.changing`, which puts everything back after an error.

    Args:
        result: whose model is trained.
        descent: the options of SGD.
        epochs: the passes of each epoch.
        phase: the name of this work in ``result.seconds``.
        progress: show a progress bar on a terminal.

    Raises:
        DivergedError: a loss or a parameter became NaN or infinite.
        ValueError: a pass over a loader without a sample.
    """
    model, record = result.model, result.record
    parameters = trainable(model)
    total = sum(each.batches for passes in epochs for each in passes)
    with timed(result.seconds, phase, device_of(model)), bar(progress) as display:
        sgd = descent.optimizer(parameters.values())
        optimizer = sgd if result.selection is None else SparseOptimizer(sgd, result.selection, model=model)
        model.train()
        task = display.add_task(phase, total=total)
        before = 0  # batches of the passes before, as they were counted: the schedule's, whatever came of them
        for passes in epochs:
            means = _Means()
            for each in passes:
                for place, batch in each.read():
                    done = (before + place) / total
                    lr = learning_rate(descent.schedule, descent.lr, done + 0.5 / total, descent.warmup)
                    for group in optimizer.param_groups:
                        group["lr"] = lr
                    optimizer.zero_grad(set_to_none=True)
                    terms = each.terms(batch, done)
                    _check_finite(float(terms.loss.detach()), record.steps, descent)
                    terms.loss.backward()
                    optimizer.step()
                    means.add(terms, record)
                    display.update(task, completed=before + place + 1)
                before += each.batches
            record.history.append(
                {"epoch": len(record.history) + 1, **means.row(), "learning_rate": optimizer.param_groups[0]["lr"]}
            )
        check_finite(parameters, f"lower lr ({descent.lr})")


class _Means:
    """The mean losses of an epoch."""

    def __init__(self) -> None:
        self._sums = {"retain_loss": 0.0, "forget_loss": 0.0}
        self._counts = dict.fromkeys(self._sums, 0)

    def add(self, terms: Terms, record: Record) -> None:
        record.steps += 1
        record.samples += terms.samples
        record.forget_steps += terms.forget is not None
        for part, loss in (("retain_loss", terms.retain), ("forget_loss", terms.forget)):
            if loss is not None:
                self._sums[part] += float(loss.detach())
                self._counts[part] += 1

    def row(self) -> dict[str, float | None]:
        return {part: self._sums[part] / count if count else None for part, count in self._counts.items()}


def _check_finite(loss: float, step: int, descent: Descent) -> None:
    if not math.isfinite(loss):
        advice = f"lower lr ({descent.lr})"
        if step == 0:
            advice = "no update came before: look at the model, the data and the loss"
        raise DivergedError(f"it diverged: the loss is {loss} at step {step}; {advice}")
