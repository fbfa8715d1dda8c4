"""Training a model from scratch: the source, the retrained reference, and the short control."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fgunlearn.batches import Loader
from fgunlearn.experiment.data import Samples
from fgunlearn.experiment.resnet import ResNet
from fgunlearn.resuming import Checkpoint
from fgunlearn.resuming.file import Contents
from fgunlearn.resuming.identity import fields_of
from fgunlearn.resuming.steps import Steps
from fgunlearn.seeding import seeded

RETRAIN_SEED = 500
"""Added to a task's seed for the retrained model: it is another draw, not a copy of the source."""

AGAIN_SEED = 700
"""And for a second one, which shows what chance makes of every figure."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained: architecture and SGD with a learning rate that rises and falls linearly to 0.

    Args:
        widths: of :class:`~fgunlearn.experiment.resnet.ResNet`.
        epochs: passes over the training data.
        batch: samples per step; the incomplete last batch of a pass is left out.
        lr: the largest learning rate.
        momentum: of SGD, with Nesterov.
        weight_decay: of SGD.
        warmup: share of the steps in which the learning rate rises, in (0, 1).
    """

    widths: tuple[int, ...] = (16, 32, 96)
    epochs: int = 30
    batch: int = 32
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.3

    def __post_init__(self) -> None:
        for argument in ("epochs", "batch", "lr"):
            value = getattr(self, argument)
            if not value > 0:
                raise ValueError(f"{argument} must be > 0, got {value}")
        if not 0.0 < self.warmup < 1.0:
            raise ValueError(f"warmup must be in (0, 1), got {self.warmup}")

    def steps(self, samples: int) -> int:
        """The number of steps on this many samples."""
        return self.epochs * max(1, samples // self.batch)

    def learning_rate(self, progress: float) -> float:
        """The learning rate after the share ``progress`` of the steps, in [0, 1]."""
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        return self.lr * (1.0 - progress) / (1.0 - self.warmup)

    def new_model(self, samples: Samples, classes: int, seed: int) -> nn.Module:
        """An untrained model for these images, its weights a function of the seed; torch's own seed stays as it was."""
        with seeded(seed):
            model = ResNet(samples.images.shape[1], classes, self.widths)
        channels_last: nn.Module = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return channels_last


def sgd(model: nn.Module, training: Training) -> torch.optim.SGD:
    """The optimizer of a training, over all parameters of the model."""
    return torch.optim.SGD(
        model.parameters(),
        lr=training.lr,
        momentum=training.momentum,
        nesterov=training.momentum > 0,
        weight_decay=training.weight_decay,
        fused=True,  # the fastest there is on a CPU: retraining is the yardstick of every acceleration
    )


def train(
    samples: Samples,
    classes: int,
    training: Training,
    seed: int,
    tick: Callable[[], None] = lambda: None,
    checkpoint: Checkpoint | None = None,
) -> tuple[nn.Module, float]:
    """Trains from scratch.

    Args:
        samples: the training data.
        classes: number of logits.
        training: the recipe.
        seed: of the initial weights and the order of the samples.
        tick: called after every epoch that ends in this call.
        checkpoint: where to go on from, see :class:`fgunlearn.Checkpoint`; its ``data`` is to tell the samples.

    Returns:
        The model, in eval mode, and the seconds it took, its making included.

    Raises:
        CheckpointError, OSError: a checkpoint that can't be gone on from or written.
    """
    start = time.perf_counter()
    model = training.new_model(samples, classes, seed)
    optimizer = sgd(model, training)
    loader = samples.batches(training.batch, seed=seed, drop_last=True)
    total = training.steps(len(samples))
    made = time.perf_counter() - start
    with contextlib.ExitStack() as stack:
        step, steps = 0, None
        passes: Iterator[Iterable[Any]] = itertools.repeat(loader)
        if checkpoint is not None:
            steps = Steps(checkpoint, "train", model, [loader])
            with steps.checking():
                steps.agree({**fields_of("training", training), "seed": str(seed)})
            stack.enter_context(steps.until_done())
        start = time.perf_counter()
        if steps is not None:
            step, passes = _going_on(steps, optimizer, total, loader)
        model.train()
        while step < total:
            for x, y in next(passes):
                if step == total:
                    break
                optimizer.param_groups[0]["lr"] = training.learning_rate((step + 0.5) / total)
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
                step += 1
                if steps is not None:
                    steps.after_step(step, functools.partial(Contents, {}, {"step": step}))
            tick()
        seconds = made + time.perf_counter() - start + (0.0 if steps is None else steps.correction)
    return model.eval(), seconds


def _going_on(
    steps: Steps, optimizer: torch.optim.Optimizer, total: int, loader: Loader
) -> tuple[int, Iterator[Iterable[Any]]]:
    """The number of steps taken, and the passes to come: first what remains of one that was interrupted."""
    steps.begin(optimizer, None, total, {"samples": loader})
    step = 0
    if steps.found is not None:
        with steps.found.well_formed():
            step = int(steps.found.facts["step"])
    rest, _ = steps.rest()
    passes = itertools.repeat(steps.counted("samples"))
    return step, passes if rest is None else itertools.chain([rest], passes)
