from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fgunlearn as fg
from fgunlearn.spdgan import Fitting

Batches = list[tuple[Tensor, Tensor]]
Maker = Callable[..., fg.SPDGAN]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Two threads only wait for each other on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def images(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of 8x8 in [0, 0.8], every fourth value of which is brighter: which one is the class."""
    x = 0.3 * torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    y = torch.arange(n) % 4
    for image, label in zip(x, y, strict=True):
        image.view(-1)[int(label) :: 4] += 0.5
    return x, y


@pytest.fixture(scope="session")
def train() -> Batches:
    x, y = images(160, 0)
    return list(zip(x.split(32), y.split(32), strict=True))


@pytest.fixture(scope="session")
def forget(train: Batches) -> Batches:
    return train[:2]


@pytest.fixture(scope="session")
def _trained(train: Batches) -> nn.Module:
    """Conv, batch norm and dropout, with a frozen layer, right on all of ``train``."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 16)
    )
    model.extend([nn.ReLU(), nn.Linear(16, 4)])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(15):
        for x, y in train:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    model[0].requires_grad_(False)
    return model


@pytest.fixture
def source(_trained: nn.Module) -> nn.Module:
    """A source model in train mode, with gradients left over from training."""
    return copy.deepcopy(_trained)


@pytest.fixture
def small() -> Maker:
    """Makes an SPDGAN that is fitted in a moment; ``fitting`` settings and others by name."""

    def make(fitting: dict[str, object] | None = None, **settings: object) -> fg.SPDGAN:
        given = Fitting(**{"steps": 4, "batch": 8, **(fitting or {})})  # type: ignore[arg-type]
        return fg.SPDGAN(**{"width": 4, "blocks": 1, "fitting": given, **settings})  # type: ignore[arg-type]

    return make


@pytest.fixture
def saved(small: Maker, source: nn.Module, forget: Batches, tmp_path: Path) -> tuple[fg.SPDGAN, Path]:
    """A fitted SPDGAN and its file."""
    settings = {"eps": 0.2, "norm": "l2", "radius": 0.7, "lo": -0.1, "outside": "error", "blocks": 0, "seed": 5}
    gan = small(**settings).fit(source, forget)
    gan.save(tmp_path / "gan.safetensors")
    return gan, tmp_path / "gan.safetensors"
