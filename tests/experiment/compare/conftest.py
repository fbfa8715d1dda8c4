from __future__ import annotations

import pytest
import torch

from fgunlearn.experiment.compare.comparison import Comparison
from fgunlearn.experiment.compare.entries import parse
from fgunlearn.experiment.data import Dataset
from fgunlearn.experiment.requests import Request
from fgunlearn.experiment.training import Training
from fgunlearn.spdgan import Fitting


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Images of three classes that differ in brightness, and noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(150) % 3
    images = torch.rand(150, 1, 8, 8, generator=generator) * 0.5 + labels.reshape(-1, 1, 1, 1) / 6
    path = tmp_path_factory.mktemp("compare") / "data.safetensors"
    Dataset(images, labels).save(path)
    return f"tensors:{path}"


@pytest.fixture(scope="session")
def comparison(source: str) -> Comparison:
    return Comparison(
        source=source,
        requests=(Request("random"), Request("class", label=1)),
        entries=tuple(map(parse, ("finetune:epochs=1", "topk", "ssd:alpha=2"))),
        seeds=(0, 1),
        training=Training(widths=(8, 8), epochs=2, batch=16),
        gan={"width": 4, "blocks": 0, "fitting": Fitting(steps=2, batch=8, accuracy_budget=None)},
        jobs=1,
    )
