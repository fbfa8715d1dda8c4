from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from fgunlearn.experiment.data import Dataset
from fgunlearn.experiment.requests import Request, parse
from fgunlearn.experiment.results import write_json
from fgunlearn.experiment.training import Training
from fgunlearn.experiment.tune import study, trial
from fgunlearn.experiment.tune.search import Configuration, Grid
from fgunlearn.experiment.tune.study import Study
from fgunlearn.experiment.tune.table import WIDTH, table
from fgunlearn.perturb import Gaussian, Shrink
from fgunlearn.unlearning.result import DivergedError

pytest.importorskip("scipy", reason="rank correlations need scipy, which scikit-learn brings")

GRID = Grid(
    ratio=(0.2, 0.7),
    perturb=(Shrink(0.5), Gaussian(0.5)),
    epochs=(1.0, 2.0),
    start=Configuration(0.7, Shrink(0.5), 2.0),
)
REQUESTS = (Request("random", 0.1), Request("class", label=1), Request("mislabel", 0.1))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """120 small images of three classes that differ in brightness of a quarter."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    images = 0.3 * torch.rand(120, 1, 8, 8, generator=generator)
    for label, (row, column) in enumerate([(0, 0), (0, 4), (4, 0)]):
        images[labels == label, :, row : row + 4, column : column + 4] += 1.0
    path = tmp_path_factory.mktemp("tune") / "data.safetensors"
    Dataset(images, labels).save(path)
    return f"tensors:{path}"


@pytest.fixture(scope="module")
def asked(source: str) -> Study:
    return Study(
        source=source,
        requests=REQUESTS,
        seeds=(0, 1),
        jobs=1,
        training=Training(widths=(8, 8), epochs=6, batch=8),
        grid=GRID,
    )


@pytest.fixture(scope="module")
def results(asked: Study) -> dict[str, Any]:
    return study.run(asked, progress=False)


def figures(task: dict[str, Any]) -> Any:
    """All of a task but its times."""
    return json.loads(
        json.dumps(task), object_hook=lambda found: {k: v for k, v in found.items() if not k.endswith("seconds")}
    )


def test_every_request_and_seed_is_searched(results: dict[str, Any]) -> None:
    assert [(t["scenario"], t["seed"]) for t in results["tasks"]] == [
        (name, seed) for name in ("random-0.1", "class-1", "mislabel-0.1") for seed in (0, 1)
    ]
    for task in results["tasks"]:
        rows = task["evaluations"]
        assert len(rows) == 4
        assert [row["coordinate"] for row in rows] == ["ratio", "ratio", "perturb", "epochs"]
        assert task["chosen"] in rows
        assert task["chosen"]["criterion"] == min(row["criterion"] for row in rows)
        assert task["seconds"] > sum(row["seconds"] for row in rows)


def test_the_criterion_is_the_mean_of_its_parts(results: dict[str, Any]) -> None:
    for row in (row for task in results["tasks"] for row in task["evaluations"]):
        assert row["criterion"] == pytest.approx(sum(row["parts"].values()) / 4)


def test_hindsight_is_about_what_was_tried(results: dict[str, Any]) -> None:
    for task in results["tasks"]:
        found = task["hindsight"]
        gaps = [row["gap"]["average"] for row in task["evaluations"]]
        assert found["best"]["gap"]["average"] == min(gaps)
        assert found["gap"] == task["chosen"]["gap"]["average"]
        assert found["regret"] == pytest.approx(found["gap"] - min(gaps))
        assert found["regret_of_draw"] == pytest.approx(sum(gaps) / len(gaps) - min(gaps))
        assert found["regret_of_recipe"] == pytest.approx(gaps[1] - min(gaps))
        assert found["ratio"]["best_gap"] == min(gaps[:2])
        assert math.isnan(found["spearman"]) or -1.0 <= found["spearman"] <= 1.0
        assert found["accuracy"]["regret"] >= 0.0
        assert found["references"]["retrained"]["gap"] == 0.0
        assert found["references"].keys() == {"source", "retrained", "retrained_again"}


def test_the_search_knows_nothing_of_the_retrained_model(asked: Study, results: dict[str, Any]) -> None:
    blind = study.run(replace(asked, hindsight=False, requests=REQUESTS[:1]), progress=False)
    for task, other in zip(results["tasks"], blind["tasks"], strict=False):
        assert "hindsight" not in other
        assert [e["criterion"] for e in other["evaluations"]] == [e["criterion"] for e in task["evaluations"]]
        assert all("gap" not in e for e in other["evaluations"])
    assert "regret" not in blind["summary"][0]


def test_worker_processes_give_the_same_figures(asked: Study, results: dict[str, Any]) -> None:
    parallel = study.run(replace(asked, requests=REQUESTS[2:], jobs=2), progress=False)
    ours = [task for task in results["tasks"] if task["scenario"] == "mislabel-0.1"]
    assert [figures(task) for task in parallel["tasks"]] == [figures(task) for task in ours]


def test_a_source_that_keeps_a_class_is_found_worse_than_a_retrained_model(results: dict[str, Any]) -> None:
    for task in (task for task in results["tasks"] if task["scenario"] == "class-1"):
        references = task["hindsight"]["references"]
        assert references["source"]["criterion"] > references["retrained"]["criterion"]
        assert task["expected"]["forget"] == 0.0


@pytest.mark.parametrize("method", ["randomk", "random_topk"])
def test_other_methods_can_be_tuned(asked: Study, method: str) -> None:
    found = study.run(replace(asked, method=method, requests=REQUESTS[:1], seeds=(0,), hindsight=False), progress=False)
    assert found["configuration"]["method"] == method
    assert len(found["tasks"][0]["evaluations"]) == 4


def test_a_configuration_that_diverges_is_a_row_that_says_so(asked: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def unlearn(model: object, scenario: object, configuration: Configuration, task: object) -> float:
        if configuration.ratio == 0.2:
            raise DivergedError("the repair diverged")
        return whole(model, scenario, configuration, task)  # type: ignore[arg-type]

    whole = trial._unlearn
    monkeypatch.setattr(trial, "_unlearn", unlearn)
    found = study.run(replace(asked, requests=REQUESTS[:1], seeds=(0,)), progress=False)
    first = found["tasks"][0]["evaluations"][0]
    assert first["failed"] == "the repair diverged"
    assert found["tasks"][0]["chosen"]["ratio"] == 0.7
    assert found["tasks"][0]["hindsight"]["regret"] >= 0.0


def test_a_search_in_which_everything_diverges_is_an_error(asked: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def unlearn(*given: object) -> float:
        raise DivergedError("lower lr")

    monkeypatch.setattr(trial, "_unlearn", unlearn)
    with pytest.raises(DivergedError, match="all 4 configurations failed; the first: lower lr"):
        study.run(replace(asked, requests=REQUESTS[:1], seeds=(0,)), progress=False)


@pytest.mark.parametrize("argument", ["requests", "seeds"])
def test_nothing_to_run_is_an_error(argument: str, asked: Study) -> None:
    with pytest.raises(ValueError, match=rf"{argument} must hold at least one, got \(\)"):
        study.run(replace(asked, **{argument: ()}), progress=False)


def test_an_unknown_method_is_an_error(asked: Study) -> None:
    with pytest.raises(ValueError, match="method must be one of topk, randomk, random_topk, got 'scrub'"):
        study.run(replace(asked, method="scrub"), progress=False)


def test_a_class_that_the_data_does_not_have_is_named_with_its_request(asked: Study) -> None:
    with pytest.raises(ValueError, match="forget class 7: the data has the classes 0 to 2, and no class 7"):
        study.run(replace(asked, requests=(parse("class:7"),)), progress=False)


def test_without_scipy_nothing_is_trained(monkeypatch: pytest.MonkeyPatch, asked: Study) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    monkeypatch.setattr(trial, "run", lambda task: pytest.fail("trained"))
    with pytest.raises(ImportError, match=r"rank correlations need scipy: pip install 'fgunlearn\[eval\]'"):
        study.run(asked, progress=False)


def test_the_json_is_valid_and_says_nothing_about_where_the_data_lies(
    results: dict[str, Any], source: str, tmp_path: Path
) -> None:
    write_json(results, tmp_path / "out.json")
    text = (tmp_path / "out.json").read_text()
    read = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert source.partition(":")[2] not in text
    assert read["configuration"]["grid"]["perturb"] == ["shrink 0.5", "gaussian 0.5"]
    assert [section["scenario"] for section in read["summary"]] == [request.name for request in REQUESTS]


def test_the_table_shows_every_request(results: dict[str, Any]) -> None:
    with Path("/dev/null").open("w") as nowhere:
        console = Console(width=WIDTH, record=True, file=nowhere)
        console.print(table(results))
    text = console.export_text()
    for request in REQUESTS:
        assert request.title in text
    assert "regret" in text
    assert "…" not in text
