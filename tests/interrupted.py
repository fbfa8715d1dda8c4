"""Calls that are interrupted after a step, and what they leave: for tests of checkpoints."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, Dataset, TensorDataset

import fgunlearn as fg
from fgunlearn.experiment.data import Batches


class Killed(BaseException):
    """The end of a process, as far as one can be had without ending it."""


@contextlib.contextmanager
def killed_after(step: int, *, steps_of_optimizers: int = 1, by_signal: bool = False) -> Iterator[None]:
    """An end of the process, or :class:`Killed`, after that many steps inside (so many optimizers step in each)."""
    taken = 0

    def count(*_: object) -> None:
        nonlocal taken
        taken += 1
        if taken == step * steps_of_optimizers:
            if by_signal:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Killed

    handle = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        handle.remove()


def mlp(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """4 inputs, 3 classes; batch norm and dropout."""
    generator = torch.random.get_rng_state()
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    torch.random.set_rng_state(generator)
    return made.to(dtype)


def samples(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=generator)
    x = torch.randn(n, 4, generator=generator)
    x[torch.arange(n), y] += 2.0
    return x, y


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Samples with noise of all three global generators."""

    def __init__(self, n: int, seed: int) -> None:
        self._x, self._y = samples(n, seed)

    def __len__(self) -> int:
        return len(self._y)

    def __getitem__(self, at: int) -> tuple[Tensor, Tensor]:
        noise = 0.1 * random.random() + 0.1 * np.random.rand()  # noqa: NPY002
        return self._x[at] + noise + 0.1 * torch.randn(4), self._y[at]


def shuffled(n: int, seed: int, size: int = 8, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*samples(n, seed)), size, shuffle=True, **options)


def listed(n: int, seed: int, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    x, y = samples(n, seed)
    return list(zip(x.split(size), y.split(size), strict=True))


def retained(kind: str) -> Any:
    """40 samples in 5 batches, read in some way."""
    if kind == "list":
        return listed(40, 1)
    if kind == "with empty batches":
        return [(x, y) for pair in listed(40, 1) for x, y in ((pair[0][:0], pair[1][:0]), pair)]
    if kind == "a class less":
        return [(x[y != 2], y[y != 2]) for x, y in listed(40, 1)]
    if kind == "seeded batches":
        return Batches(*samples(40, 1), 8, seed=3)
    if kind == "augmented":
        return DataLoader(Augmented(40, 1), 8, shuffle=True)
    if kind == "own generator":
        return shuffled(40, 1, generator=torch.Generator().manual_seed(8))
    if kind == "worker":
        return DataLoader(Augmented(40, 1), 8, shuffle=True, num_workers=1)
    if kind == "lasting worker":
        return shuffled(40, 1, num_workers=1, persistent_workers=True)
    assert kind == "shuffled"
    return shuffled(40, 1)


TOP_HALF, NOISE = fg.TopK(0.5), fg.Gaussian(0.3)


@dataclass
class Case:
    """A call of ``unlearn``, made afresh each time."""

    repair: dict[str, Any] = field(default_factory=dict)
    retain: str = "shuffled"
    strategy: Any = TOP_HALF
    perturb: Any = NOISE
    heldout: bool = True
    dtype: torch.dtype = torch.float32
    options: dict[str, Any] = field(default_factory=dict)

    def model(self) -> nn.Module:
        return mlp(self.dtype)

    def call(self, model: nn.Module, path: Path | None, every: int = 2, **changes: Any) -> fg.Result:
        """With 10 steps."""
        arguments: dict[str, Any] = {
            "strategy": self.strategy,
            "perturb": self.perturb,
            "repair": fg.Repair(**{"epochs": 2, "forget_batch": 3, **self.repair}),
            "heldout_loader": shuffled(20, 3) if self.heldout else None,
            "checkpoint": None if path is None else fg.Checkpoint(path, every),
            "forget_loader": shuffled(12, 2, size=4),
            "retain_loader": retained(self.retain),
            **self.options,
            **changes,
        }
        return fg.unlearn(model, **arguments)


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def drawn() -> tuple[Any, ...]:
    """The next numbers of all global generators."""
    return torch.rand(2).tolist(), random.random(), np.random.rand()  # noqa: NPY002


def bits(model: nn.Module) -> dict[str, bytes]:
    """All parameters and buffers, and whether there are gradients."""
    found = {
        name: value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name, value in model.state_dict().items()
    }
    return {**found, "gradients": bytes([p.grad is not None for p in model.parameters()])}


def outcome(case: Case, path: Path | None, seed: int = 5, **changes: Any) -> tuple[Any, ...]:
    """All that a call gives, and the random numbers after it."""
    seed_all(seed)
    model = case.model()
    result = case.call(model, path, **changes)
    return bits(model), result.record, result.changed, result.buffers, result.selection, drawn()


def interrupt(case: Case, path: Path, step: int, seed: int = 5, **changes: Any) -> None:
    """A call that ends after a step, and leaves the model as it was."""
    seed_all(seed)
    model = case.model()
    before = bits(model)
    try:
        with killed_after(step):
            case.call(model, path, **changes)
    except Killed:
        assert bits(model) == before
        return
    raise AssertionError(f"it took fewer than {step} steps")
