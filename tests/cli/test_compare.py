"""``fgunlearn compare`` as its users meet it, on data that is small enough."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from command_line import Run, press_ctrl_c, refused, start, wait_for
from fgunlearn.experiment.data import Dataset

TINY = ("--epochs", "1", "--steps", "2", "--seeds", "1", "--jobs", "1")


@pytest.fixture
def data(tmp_path: Path) -> str:
    images = torch.rand(150, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    Dataset(images, torch.arange(150) % 3).save(tmp_path / "data.safetensors")
    return f"tensors:{tmp_path / 'data.safetensors'}"


def test_named_methods_and_requests_are_compared(run: Run, data: str, tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("3\n70\n149\n")
    asked = ("--scenario", "random:0.2", "--scenario", f"ids:{tmp_path / 'rows.txt'}", "--scenario", "random:0.2")
    named = ("--methods", "ssd:alpha=1.5", "--methods", "topk:ratio=0.2")
    status, printed, error = run("compare", "--data", data, *asked, *named, *TINY, "--out", tmp_path / "out")
    assert (status, error) == (0, "")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [section["title"] for section in results["summary"]] == ["forget 20% at random", "forget 3 named samples"]
    assert [row["name"] for row in results["summary"][0]["rows"]] == [
        "source",
        "retrained",
        "ssd:alpha=1.5",
        "topk:ratio=0.2",
    ]
    assert results["rows"][-1]["sizes"]["forget"] == 3
    assert "forget 3 named samples: best of ours is topk:ratio=0.2" in printed
    assert (tmp_path / "out" / "results.csv").is_file()
    assert "topk:ratio=0.2" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--methods", "salum"], "did you mean 'salun'?"),
        (["--methods", "topk:rat=0.1"], "topk has no option 'rat'"),
        (["--methods", "ssd", "--methods", "topk:ratio=2"], "topk:ratio=2: ratio must be in [0, 1], got 2"),
        (["--scenario", "rndom:0.1"], "did you mean random?"),
        (["--scenario", "random:2"], "the share must be a number in (0, 1), got '2'"),
        (["--scenario", "ids:nowhere"], "there is no file nowhere"),
        (["--data", "digit"], "data must be 'digits', 'cifar10:PATH' or 'tensors:FILE', got 'digit'"),
        (["--out", "no/where"], "--out: there is no folder no"),
        (["--seeds", "0"], "--seeds"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = asked if "--out" in asked else [*asked, "--out", "out"]
    refused(run("compare", *given), message)
    assert not list(tmp_path.rglob("runs"))


@pytest.mark.parametrize(
    ("scenario", "message"),
    [("class:3", "the data has the classes 0 to 2, and no class 3"), ("random:0.001", "0 of 105 training samples")],
)
def test_what_the_data_does_not_have_is_refused(
    run: Run, data: str, tmp_path: Path, scenario: str, message: str
) -> None:
    refused(run("compare", "--data", data, "--scenario", scenario, *TINY, "--out", tmp_path / "out"), message)


def test_rows_out_of_range_are_refused(run: Run, data: str, tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("150\n")
    scenario = f"ids:{tmp_path / 'rows.txt'}"
    refused(run("compare", "--data", data, "--scenario", scenario, *TINY, "--out", tmp_path / "out"), "row 150")


def test_another_experiments_folder_is_refused(run: Run, data: str, tmp_path: Path) -> None:
    only = ("--scenario", "random", "--methods", "randomk")
    assert run("compare", "--data", data, *only, *TINY, "--out", tmp_path / "out")[0] == 0
    before = (tmp_path / "out" / "results.json").read_bytes()
    other = ("--epochs", "2", *TINY[2:])
    refused(run("compare", "--data", data, *only, *other, "--out", tmp_path / "out"), "holds another experiment")
    assert (tmp_path / "out" / "results.json").read_bytes() == before


def test_ctrl_c_keeps_what_is_finished_and_the_same_command_goes_on(run: Run, data: str, tmp_path: Path) -> None:
    asked = ("--data", data, "--scenario", "random", *TINY, "--out", str(tmp_path / "out"))
    process = start(tmp_path, "compare", *asked)
    wait_for(lambda: len(list(tmp_path.glob("out/runs/*.json"))) >= 3, process)
    press_ctrl_c(process)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/runs/*.json")}
    assert len(kept) >= 3
    assert not (tmp_path / "out" / "results.json").exists()
    status, _, error = run("compare", *asked)
    assert (status, error) == (0, "")
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())["rows"]) == 16
