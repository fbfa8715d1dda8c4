from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fgunlearn as fg

Maker = Callable[..., torch.optim.Optimizer]


@pytest.fixture
def mlp() -> Callable[..., nn.Sequential]:
    """Makes a small network with the same weights every time."""

    def make(dtype: torch.dtype = torch.float32) -> nn.Sequential:
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)

    return make


@pytest.fixture
def choose() -> Callable[..., fg.Selection]:
    """Selects a share of a model's coordinates at random."""

    def make(model: nn.Module, ratio: float = 0.4, seed: int = 2) -> fg.Selection:
        return fg.select(model, [], None, fg.RandomK(ratio, seed=seed))

    return make


@pytest.fixture
def gradients() -> Callable[..., None]:
    """Gives every parameter the gradient of step number ``step``."""

    def give(model: nn.Module, step: int) -> None:
        generator = torch.Generator().manual_seed(step)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)

    return give


@pytest.fixture
def parts() -> Callable[..., list[Tensor]]:
    """The selected coordinates of a model's parameters, as vectors of their own."""

    def take(model: nn.Module, selection: fg.Selection) -> list[Tensor]:
        return [p.detach()[m].clone() for p, m in zip(model.parameters(), selection.masks(), strict=True)]

    return take


@pytest.fixture
def loss_of() -> Callable[..., Tensor]:
    """A loss of the network on a batch that ``step`` decides."""

    def loss(model: nn.Module, step: int = 0, **options: Any) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        dtype = next(model.parameters()).dtype
        x = torch.randn(16, 6, generator=generator, **options).to(dtype)
        y = torch.randint(0, 3, (16,), generator=generator)
        return nn.functional.cross_entropy(model(x), y)

    return loss
