"""``fgunlearn tune``, on data that is small enough."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from command_line import Run, press_ctrl_c, refused, start, wait_for
from fgunlearn.experiment.data import Dataset


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With images of three classes, and the results of another day."""
    monkeypatch.chdir(tmp_path)
    images = torch.rand(120, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    Dataset(images, torch.arange(120) % 3).save(tmp_path / "data.safetensors")
    (tmp_path / "out.json").write_text("yesterday's")
    return tmp_path


def tune(*more: object) -> list[object]:
    usual = {"--data": "tensors:data.safetensors", "--seeds": 1, "--epochs": 1, "--jobs": 1, "--out": "out.json"}
    return ["tune", *(word for pair in usual.items() if pair[0] not in more for word in pair), *more]


def test_tune_prints_the_table_and_writes_every_evaluation(run: Run, folder: Path) -> None:
    pytest.importorskip("scipy")
    status, out, error = run(*tune("--forget-ratio", 0.1, "--forget-ratio", 0.5))
    assert (status, error) == (0, "")
    results = json.loads((folder / "out.json").read_text())
    assert [section["title"] for section in results["summary"]] == ["forget 10% at random", "forget 50% at random"]
    for section, task in zip(results["summary"], results["tasks"], strict=True):
        assert section["title"] in out
        assert f"{section['regret']['mean']:.2f}" in out
        assert len(task["evaluations"]) == 12
        assert task["hindsight"]["regret"] >= 0.0
    assert results["configuration"]["seeds"] == [100]


@pytest.mark.parametrize(
    ("asked", "titles"),
    [
        (["--scenario", "class:2"], ["forget class 2"]),
        (["--scenario", "mislabel", "--forget-ratio", 0.2], ["forget 20% mislabelled"]),
        (["--scenario", "random:0.3"], ["forget 30% at random"]),
    ],
)
def test_a_scenario_is_searched_without_a_retrained_model(
    run: Run, folder: Path, asked: list[object], titles: list[str]
) -> None:
    status, out, error = run(*tune("--no-hindsight", "--method", "randomk", *asked))
    assert (status, error) == (0, "")
    results = json.loads((folder / "out.json").read_text())
    assert [section["title"] for section in results["summary"]] == titles
    assert titles[0] in out
    assert "regret" not in out
    assert "hindsight" not in results["tasks"][0]


def test_the_same_call_chooses_the_same(run: Run, folder: Path) -> None:
    found = []
    for _ in range(2):
        assert run(*tune("--no-hindsight", "--forget-ratio", 0.2))[0] == 0
        task = json.loads((folder / "out.json").read_text())["tasks"][0]
        found.append([(e["ratio"], e["perturb"], e["epochs"], e["criterion"]) for e in task["evaluations"]])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        (["--data", "digit"], ["data must be", "'digit'"]),
        (["--data", "tensors:nowhere"], ["data", "nowhere"]),
        (["--forget-ratio", "0"], ["--forget-ratio must be in (0, 1), got 0.0"]),
        (["--forget-ratio", "0.1", "--forget-ratio", "1.5"], ["--forget-ratio", "1.5"]),
        (["--forget-ratio", "nan"], ["--forget-ratio", "nan"]),
        (["--forget-ratio", "some"], ["--forget-ratio", "'some'"]),
        (["--forget-ratio", "0.001"], ["forget 0.1% at random: 0 of 84 training samples"]),
        (["--scenario", "randm"], ["--scenario", "'randm'", "did you mean random?"]),
        (["--scenario", "random:2"], ["--scenario", "'2'"]),
        (["--scenario", "class:three"], ["--scenario", "'three'"]),
        (["--scenario", "class:3"], ["forget class 3", "no class 3"]),
        (["--scenario", "ids:nowhere.txt"], ["--scenario", "nowhere.txt"]),
        (["--scenario", "class:1", "--forget-ratio", "0.1"], ["--forget-ratio 0.1", "--scenario class:1"]),
        (["--method", "scrub"], ["--method", "'scrub'"]),
        (["--seeds", "0"], ["--seeds", "0"]),
        (["--epochs", "0"], ["--epochs", "0"]),
        (["--limit", "0"], ["--limit", "0"]),
        (["--limit", "2"], ["limit must be at least the number of classes, 3, got 2"]),
        (["--jobs", "-1"], ["--jobs", "-1"]),
        (["--out", "nowhere/out.json"], ["--out", "nowhere"]),
        (["--bogus"], ["--bogus"]),
    ],
)
def test_bad_input_is_refused_by_name_and_nothing_is_overwritten(
    run: Run, folder: Path, asked: list[str], parts: list[str]
) -> None:
    refused(run(*tune(*asked)), *parts)
    assert (folder / "out.json").read_text() == "yesterday's"
    assert {path.name for path in folder.iterdir()} == {"data.safetensors", "out.json"}


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_ends_the_search_and_leaves_the_old_results(folder: Path, jobs: int) -> None:
    process = start(folder, *tune("--epochs", 1_000_000, "--jobs", jobs))
    wait_for(lambda: bool(list((folder / "tmp").glob("fgunlearn-tasks-*/data.safetensors"))), process)
    time.sleep(1.0)
    press_ctrl_c(process)
    assert (folder / "out.json").read_text() == "yesterday's"
    assert not list((folder / "tmp").glob("*fgunlearn*"))
