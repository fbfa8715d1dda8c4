from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from fgunlearn.experiment import demo
from fgunlearn.experiment.data import Dataset
from fgunlearn.experiment.demo import Demo
from fgunlearn.experiment.recipes import recipes
from fgunlearn.experiment.results import mean_and_deviation, write_json
from fgunlearn.experiment.table import WIDTH, table, verdicts
from fgunlearn.experiment.training import Training
from fgunlearn.spdgan import Fitting

TINY = Training(widths=(8, 8), epochs=2)
GAN = {"width": 4, "blocks": 0, "fitting": Fitting(steps=8, batch=16, check_every=4)}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """240 small images of three classes that differ in brightness of a quarter."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 3
    images = 0.3 * torch.rand(240, 1, 8, 8, generator=generator)
    for label, (row, column) in enumerate([(0, 0), (0, 4), (4, 0)]):
        images[labels == label, :, row : row + 4, column : column + 4] += 1.0
    path = tmp_path_factory.mktemp("demo") / "data.safetensors"
    Dataset(images, labels).save(path)
    return f"tensors:{path}"


@pytest.fixture(scope="module")
def results(source: str) -> dict[str, Any]:
    return demo.run(Demo(source=source, seeds=(0, 1), jobs=1, training=TINY, gan=GAN), progress=False)


def test_every_scenario_seed_and_model_is_there(results: dict[str, Any]) -> None:
    assert [(task["scenario"], task["seed"]) for task in results["tasks"]] == [
        (scenario, seed) for scenario in ("random", "class", "mislabel") for seed in (0, 1)
    ]
    expected = ["source", "retrained", *(recipe.name for recipe in recipes(0)), "retrained, 2 epochs"]
    for task in results["tasks"]:
        assert [row["name"] for row in task["rows"]] == expected
        assert sum(task["sizes"][part] for part in ("forget", "retain")) == 168


def test_both_recipes_run_by_all_three_strategies(results: dict[str, Any]) -> None:
    rows = [row for row in results["tasks"][0]["rows"] if "strategy" in row]
    assert {(row["strategy"], row["recipe"]) for row in rows} == {
        (strategy, recipe)
        for strategy in ("Top-K", "Random-k", "Random-TopK")
        for recipe in ("perturb + repair", "forget term")
    }
    for row in rows:
        assert 0 < row["changed"] <= row["selected"]
        assert (row["forget_steps"] > 0) is (row["recipe"] == "forget term")
        assert row["seconds"] == pytest.approx(sum(row["phases"].values()))


def test_the_figures_of_a_model_against_itself_are_known(results: dict[str, Any]) -> None:
    for task in results["tasks"]:
        source, retrained = task["rows"][:2]
        assert source["memory_retention_rate"] == 1.0
        assert (source["unlearning_degree"], source["unlearning_degree_loss"]) == (0.0, 0.0)
        assert source["forgetting_rate"] == 0.0 or math.isnan(source["forgetting_rate"])
        assert retrained["acceleration"] == 1.0
        assert retrained["js_divergence"] == pytest.approx(0.0, abs=1e-12)
        assert (retrained["agreement"], retrained["relative_l2"]) == (1.0, 0.0)


def test_acceleration_is_measured_and_predicted(results: dict[str, Any]) -> None:
    for task in results["tasks"]:
        retrained = task["rows"][1]["seconds"]
        for row in task["rows"]:
            if "strategy" in row:
                assert row["acceleration"] == pytest.approx(retrained / row["seconds"])
                error = row["predicted_acceleration"] / row["acceleration"] - 1
                assert row["prediction_error"] == pytest.approx(error)


def test_the_summary_is_mean_and_standard_deviation_over_seeds(results: dict[str, Any]) -> None:
    first, second = results["tasks"][0]["rows"][2], results["tasks"][1]["rows"][2]
    row = results["summary"][0]["rows"][2]
    values = torch.tensor([first["accuracy_test"], second["accuracy_test"]], dtype=torch.float64)
    assert row["accuracy_test"]["mean"] == pytest.approx(float(values.mean()))
    assert row["accuracy_test"]["std"] == pytest.approx(float(values.std()))


def test_figures_that_are_not_defined_for_a_seed_are_left_out() -> None:
    assert mean_and_deviation([1.0, math.nan, 3.0]) == {
        "mean": 2.0,
        "std": pytest.approx(math.sqrt(2)),
        "seeds": 2,
    }
    nothing = mean_and_deviation([math.nan, math.nan])
    assert math.isnan(nothing["mean"])
    assert nothing["seeds"] == 0


def summary_row(name: str, gaps: tuple[float, float, float], acceleration: float) -> dict[str, Any]:
    parts = ("forget", "retain", "test")
    return {
        "name": name,
        "strategy": name,
        **{f"accuracy_{part}": 0.5 + gap for part, gap in zip(parts, gaps, strict=True)},
        "acceleration": acceleration,
    }


@pytest.mark.parametrize(
    ("rows", "best", "met"),
    [
        ([("near", (0.0, 0.0, -0.009), 10.0), ("far", (0.0, 0.0, 0.02), 90.0)], "near", True),
        ([("near but slow", (0.0, 0.0, 0.0), 9.9), ("far", (0.0, 0.0, 0.02), 90.0)], "far", False),
        ([("slow", (0.0, 0.0, 0.0), 5.0), ("slow and far", (0.1, 0.0, 0.0), 9.0)], "slow", False),
    ],
)
def test_the_best_is_the_nearest_of_those_that_are_fast_enough(
    rows: list[tuple[str, tuple[float, float, float], float]], best: str, met: bool
) -> None:
    retrained = {"name": "retrained", "accuracy_forget": 0.5, "accuracy_retain": 0.5, "accuracy_test": 0.5}
    task = {"scenario": "random", "rows": [{**retrained, "name": "source"}, retrained]}
    task["rows"] += [summary_row(*row) for row in rows]
    found = demo.summarise([task])[0]
    assert (found["best"], found["met"]) == (best, met)


def test_the_table_and_the_verdicts_show_every_model(results: dict[str, Any]) -> None:
    console = Console(width=WIDTH, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table(results))
    text = console.export_text()
    assert text.count("Random-TopK, forget term") == 3
    assert text.count("retrained, 2 epochs") == 3
    assert "…" not in text
    assert [line.partition(":")[0] for line in verdicts(results)] == ["random", "class", "mislabel"]


def test_the_json_file_is_valid_json_without_nan(results: dict[str, Any], tmp_path: Path) -> None:
    write_json({**results, "undefined": [math.nan, math.inf]}, tmp_path / "out.json")
    read = json.loads((tmp_path / "out.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert read["undefined"] == [None, None]
    assert len(read["tasks"]) == 6
    assert read["configuration"]["source"] == "tensors"  # and not where the data lies
    assert list(tmp_path.iterdir()) == [tmp_path / "out.json"]


def test_worker_processes_give_the_same_figures(source: str, results: dict[str, Any]) -> None:
    parallel = demo.run(
        Demo(source=source, scenarios=("class",), seeds=(0, 1), jobs=2, training=TINY, gan=GAN), progress=False
    )
    ours = [task for task in results["tasks"] if task["scenario"] == "class"]
    for task, other in zip(ours, parallel["tasks"], strict=True):
        for row, same in zip(task["rows"], other["rows"], strict=True):
            assert row["accuracy_test"] == same["accuracy_test"], row["name"]
            assert row.get("changed") == same.get("changed"), row["name"]
