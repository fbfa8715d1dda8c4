"""The loop that most methods share: SGD over epochs, each of one or more passes over a loader."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from fgunlearn.arguments import check_count, check_number, check_seed
from fgunlearn.batches import LossFunction, cross_entropy, device_of
from fgunlearn.distributed.layout import is_dtensor
from fgunlearn.methods.passes import Endless, Pass, Terms
from fgunlearn.optim import SparseOptimizer
from fgunlearn.parameters import trainable
from fgunlearn.progress import bar
from fgunlearn.resuming.file import Contents
from fgunlearn.resuming.steps import Steps
from fgunlearn.unlearning.changing import timed
from fgunlearn.unlearning.result import DivergedError, Record, Result, check_finite
from fgunlearn.unlearning.schedule import Schedule, check_schedule, learning_rate

_LOSSES = ("retain_loss", "forget_loss")


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


@dataclass
class Done:
    """How far a descent has come.

    Attributes:
        record: of the result.
        epoch: whole epochs that are done.
        passes: whole passes of this epoch that are done.
        place: batches of this pass that came.
        before: batches of the passes before it, as they were counted: the schedule's, whatever came of them.
        sums: of this epoch's losses, by their names in the history.
        counts: how many each is the sum of.
        learning_rate: of the last step.
    """

    record: Record
    epoch: int = 0
    passes: int = 0
    place: int = 0
    before: int = 0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_LOSSES, 0.0))
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_LOSSES, 0))
    learning_rate: float = 0.0

    def add(self, terms: Terms) -> None:
        """One more step."""
        self.record.steps += 1
        self.record.samples += terms.samples
        self.record.forget_steps += terms.forget is not None
        for part, loss in zip(_LOSSES, (terms.retain, terms.forget), strict=True):
            if loss is not None:
                self.sums[part] += float(loss.detach())
                self.counts[part] += 1

    def end_pass(self, batches: int) -> None:
        """A pass of so many batches is done."""
        self.before += batches
        self.passes += 1
        self.place = 0

    def end_epoch(self) -> None:
        """An epoch is done: its means are history."""
        means = {part: self.sums[part] / count if count else None for part, count in self.counts.items()}
        self.record.history.append(
            {"epoch": len(self.record.history) + 1, **means, "learning_rate": self.learning_rate}
        )
        self.epoch += 1
        self.passes = 0
        self.sums, self.counts = dict.fromkeys(_LOSSES, 0.0), dict.fromkeys(_LOSSES, 0)

    def contents(self) -> Contents:
        """For a file."""
        return Contents({}, dataclasses.asdict(self))

    def load(self, saved: Contents) -> None:
        """Goes to where a file says."""
        with saved.well_formed():
            facts = {**saved.facts}
            for name, value in Record(**facts.pop("record")).__dict__.items():
                setattr(self.record, name, value)
            for name, value in Done(self.record, **facts).__dict__.items():
                setattr(self, name, value)


def descend(
    result: Result,
    descent: Descent,
    epochs: Sequence[Sequence[Pass]],
    *,
    phase: str,
    progress: bool = False,
    steps: Steps | None = None,
    beside: Endless | None = None,
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
        steps: the call's checkpoints, if it writes some.
        beside: what the terms read a batch of for each step, if anything.

    Raises:
        DivergedError: a loss or a parameter became NaN or infinite.
        ValueError: a pass over a loader without a sample; a checkpoint that is damaged or of another call.
        OSError: a checkpoint that can't be written.
    """
    model = result.model
    parameters = trainable(model)
    total = sum(each.batches for passes in epochs for each in passes)
    done, rest = Done(result.record), None
    with timed(result.seconds, phase, device_of(model)), bar(progress) as display:
        sgd = descent.optimizer(parameters.values())
        optimizer = sgd if result.selection is None else SparseOptimizer(sgd, result.selection, model=model)
        model.train()
        if steps is not None:
            reading = {each.argument: each.loader for passes in epochs for each in passes}
            other = None if beside is None else (beside.argument, beside.loader)
            chosen = () if result.selection is None else result.selection.indices
            steps.begin(optimizer, result.selection, total, reading, other, chosen)
            if steps.found is not None:
                done.load(steps.found)
            rest, rest_beside = steps.rest()
            if beside is not None:
                beside.read(steps.counted(beside.argument), rest_beside)
        task = display.add_task(phase, total=total, completed=done.before + done.place)
        for passes in epochs[done.epoch :]:
            for each in passes[done.passes :]:
                counted = None if steps is None else steps.counted(each.argument)
                for place, batch in each.read(counted, rest, done.place):
                    share = (done.before + place) / total
                    lr = learning_rate(descent.schedule, descent.lr, share + 0.5 / total, descent.warmup)
                    for group in optimizer.param_groups:
                        group["lr"] = lr
                    optimizer.zero_grad(set_to_none=True)
                    terms = each.terms(batch, share)
                    _check_finite(float(terms.loss.detach()), done.record.steps, descent)
                    terms.loss.backward()
                    optimizer.step()
                    done.learning_rate, done.place = lr, place + 1
                    done.add(terms)
                    display.update(task, completed=done.before + done.place)
                    if steps is not None:
                        steps.after_step(done.record.steps, done.contents)
                rest = None
                done.end_pass(each.batches)
            done.end_epoch()
        check_finite(parameters, f"lower lr ({descent.lr})")
    if steps is not None:
        result.seconds[phase] += steps.correction


def _check_finite(loss: float, step: int, descent: Descent) -> None:
    if not math.isfinite(loss):
        advice = f"lower lr ({descent.lr})"
        if step == 0:
            advice = "no update came before: look at the model, the data and the loss"
        raise DivergedError(f"it diverged: the loss is {loss} at step {step}; {advice}")
