"""A model that has memorised its training data, and data like it: what forgetting by held-out data is tried on."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fgunlearn.metrics import Outputs
from fgunlearn.seeding import seeded

CLASSES = 4
KEPT, GONE, UNSEEN = 300, 60, 300


def data(n: int, seed: int, noise: float = 0.6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, CLASSES, (n,), generator=generator)
    centre = torch.stack([(y % 2).float() * 2 - 1, (y // 2).float() * 2 - 1], 1)
    return torch.cat([centre, torch.zeros(n, 20)], 1) + noise * torch.randn(n, 22, generator=generator), y


@functools.cache
def overfitted(mislabelled: bool) -> tuple[nn.Sequential, tuple[Tensor, Tensor]]:
    """A model that is right on all of its training data, of which the last part is to be forgotten; and that part."""
    x, y = data(GONE, 5)
    gone = (x, (y + 1) % CLASSES if mislabelled else y)
    x, y = (torch.cat(parts) for parts in zip(data(KEPT, 4), gone, strict=True))
    with seeded(0):
        model = nn.Sequential(
            nn.Linear(22, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)
        )
        optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
        for _ in range(200):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert float((model(x).argmax(1) == y).float().mean()) == 1.0
    return model.eval(), gone


def batches(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(20), y.split(20), strict=True))


def seen(model: nn.Module, part: tuple[Tensor, Tensor]) -> Outputs:
    return Outputs.of(model, batches(*part))
