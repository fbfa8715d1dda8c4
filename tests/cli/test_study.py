"""``fgunlearn spdgan study``, on data that is small enough."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from command_line import Run, refused
from fgunlearn.experiment.data import Dataset

WRITTEN = {
    "unlearning-degree-tensors.json",
    "unlearning-degree-tensors-shifts.svg",
    "unlearning-degree-tensors-models.svg",
    "unlearning-degree-tensors-random-samples.png",
    "unlearning-degree-tensors-random-training.svg",
}


@pytest.fixture
def data(tmp_path: Path) -> str:
    images = torch.rand(150, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    Dataset(images, torch.arange(150) % 3).save(tmp_path / "data.safetensors")
    return f"tensors:{tmp_path / 'data.safetensors'}"


def test_the_study_writes_its_figures_and_results(run: Run, data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    asked = {"--setting": "random", "--seeds": 1, "--epochs": 1, "--steps": 2, "--jobs": 1, "--out": out}
    status, printed, error = run("spdgan", "study", "--data", data, *(str(w) for pair in asked.items() for w in pair))
    assert (status, error) == (0, "")
    assert {path.name for path in out.iterdir()} == WRITTEN
    results = json.loads((out / "unlearning-degree-tensors.json").read_text())
    assert results["configuration"]["settings"] == ["random"]
    assert len(results["tasks"]) == 1
    for row in results["tasks"][0]["shifts"]:
        assert row["name"] in printed


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--setting", "fow"], "--setting must be one of random, few, mislabel, got 'fow'"),
        (["--out", "missing"], "--out: there is no folder missing"),
        (["--seeds", "0"], "--seeds"),
        (["--data", "digit"], "data must be 'digits', 'cifar10:PATH' or 'tensors:FILE', got 'digit'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run("spdgan", "study", *asked), message)
    assert list(tmp_path.iterdir()) == []
