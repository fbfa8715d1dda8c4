"""A tiny classifier in float64, its data, and SGD written out: what methods are restated with."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fgunlearn.seeding import seeded

Batches = list[tuple[Tensor, Tensor]]
Loss = Callable[[nn.Module], Tensor]

GONE, KEPT = 12, 20
SIZE = 6


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 8, dtype=torch.float64), nn.Tanh(), nn.Linear(8, 3, dtype=torch.float64)
    )  # fmt: skip


def samples(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=generator)
    return F.one_hot(y, 4).double() + 0.5 * torch.randn(n, 4, generator=generator, dtype=torch.float64), y


def cut(x: Tensor, y: Tensor, size: int = SIZE) -> Batches:
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(y), size)]


def gone() -> Batches:
    """D_u: two batches of 6."""
    return cut(*samples(GONE, 1))


def kept() -> Batches:
    """D_r: batches of 6, 6, 6 and 2."""
    return cut(*samples(KEPT, 2))


def source() -> nn.Sequential:
    """A model that was trained for a while, in eval mode: always the same, a new copy each time."""
    return copy.deepcopy(_trained())


@functools.cache
@torch.enable_grad()
def _trained() -> nn.Sequential:
    with seeded(0):
        model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in range(10):
        for x, y in gone() + kept():
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return model.eval()


def loss_on(x: Tensor, y: Tensor) -> Loss:
    return lambda model: -model(x).log_softmax(1)[torch.arange(len(y)), y].mean()


def gradients(model: nn.Module, loss: Loss) -> list[Tensor]:
    return list(torch.autograd.grad(loss(model), list(model.parameters())))


def sgd_by_hand(
    model: nn.Module,
    losses: Sequence[Loss],
    lrs: Sequence[float],
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    masks: Sequence[Tensor] | None = None,
) -> None:
    """One step per loss; with masks, of the masked coordinates as if there were no others."""
    parameters = list(model.parameters())
    velocity = [torch.zeros_like(p) for p in parameters]
    for loss, lr in zip(losses, lrs, strict=True):
        slopes = gradients(model, loss)
        with torch.no_grad():
            for t, (p, g) in enumerate(zip(parameters, slopes, strict=True)):
                g = g + weight_decay * p
                velocity[t] = momentum * velocity[t] + g
                step = lr * (g + momentum * velocity[t] if nesterov else velocity[t])
                p -= step if masks is None else torch.where(masks[t], step, torch.zeros_like(step))


def assert_close(model: nn.Module, expected: nn.Module) -> None:
    for (name, p), q in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11, msg=lambda m, name=name: f"{name}: {m}")


def distance(model: nn.Module, other: nn.Module) -> float:
    """The largest difference of any two parameters."""
    return max(float((p - q).detach().abs().max()) for p, q in zip(model.parameters(), other.parameters(), strict=True))
