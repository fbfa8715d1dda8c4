"""A small comparison from end to end: what is there, what is kept, what goes on."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from fgunlearn import methods
from fgunlearn.experiment.compare import comparison as comparisons
from fgunlearn.experiment.compare import trial
from fgunlearn.experiment.compare.comparison import Comparison, OtherExperimentError
from fgunlearn.experiment.compare.entries import Entry, parse
from fgunlearn.experiment.data import Dataset
from fgunlearn.experiment.requests import Request
from fgunlearn.experiment.training import Training
from fgunlearn.unlearning.result import DivergedError

NAMES = ["source", "retrained", "finetune:epochs=1", "topk", "ssd:alpha=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare") / "out"


@pytest.fixture(scope="module")
def results(comparison: Comparison, folder: Path) -> dict[str, Any]:
    return comparisons.run(comparison, folder, progress=False)


def row_of(results: dict[str, Any], name: str, scenario: str = "random-0.1", seed: int = 0) -> dict[str, Any]:
    return next(r for r in results["rows"] if (r["name"], r["scenario"], r["seed"]) == (name, scenario, seed))


def test_every_request_seed_and_method_is_there(results: dict[str, Any]) -> None:
    found = [(row["scenario"], row["seed"], row["name"]) for row in results["rows"]]
    assert found == [(s, seed, name) for s in ("random-0.1", "class-1") for seed in (0, 1) for name in NAMES]
    assert [section["scenario"] for section in results["summary"]] == ["random-0.1", "class-1"]
    assert all([row["name"] for row in section["rows"]] == NAMES for section in results["summary"])


def test_figures_against_oneself_are_known(results: dict[str, Any]) -> None:
    for scenario in ("random-0.1", "class-1"):
        retrained, source = (row_of(results, name, scenario) for name in ("retrained", "source"))
        assert retrained["gap_forget"] == retrained["gap_mia"] == retrained["average_gap"] == 0.0
        assert retrained["tug_of_war"] == retrained["agreement"] == retrained["acceleration"] == 1.0
        assert source["unlearning_degree"] == {"value": 0.0, "low": 0.0, "high": 0.0}
        assert source["memory_retention_rate"] == 1.0
    assert row_of(results, "retrained", "class-1")["accuracy_forget"] == 0.0


def test_gaps_are_differences_to_the_retrained_model(results: dict[str, Any]) -> None:
    row, reference = row_of(results, "topk"), row_of(results, "retrained")
    for part in ("forget", "retain", "test"):
        assert row[f"gap_{part}"] == row[f"accuracy_{part}"] - reference[f"accuracy_{part}"]
    assert row["gap_mia"] == row["mia"]["loss"]["auc"]["value"] - reference["mia"]["loss"]["auc"]["value"]
    assert abs(row["gap_mia_worst"]) >= abs(row["gap_mia"])
    expected = math.prod(1 - abs(row[f"gap_{part}"]) for part in ("forget", "retain", "test"))
    assert row["tug_of_war"] == pytest.approx(expected)


def test_what_a_method_did_and_cost_is_there(results: dict[str, Any]) -> None:
    tuned, ours, dampened = (row_of(results, name) for name in NAMES[2:])
    assert ours["ours"]
    assert not tuned["ours"]
    assert ours["selected"] == round(0.7 * ours["parameters"])
    perturbing = {"forget_term": {"perturb"}, "heldout": set()}[ours["recipe"]]
    assert set(ours["phases"]) == {"recipe", "select", "forget setup", "repair"} | perturbing
    assert sum(ours["phases"].values()) == pytest.approx(ours["seconds"])
    assert all(0.0 <= share <= 1.0 for share in ours["density"].values())
    assert tuned["selected"] is None
    assert len(tuned["history"]) == 1
    assert dampened["steps"] == 0
    assert dampened["predicted_acceleration"] > 1
    for row in (ours, tuned, dampened):
        assert row["prediction_error"] == pytest.approx(row["predicted_acceleration"] / row["acceleration"] - 1)
        for part in ("forget", "unseen"):
            assert sum(row["scores"][part]) == pytest.approx(1.0)
        assert row["scores"]["edges"] == ours["scores"]["edges"]


def test_the_files_hold_the_same(results: dict[str, Any], folder: Path) -> None:
    read = json.loads((folder / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert [row["name"] for row in read["rows"]] == [row["name"] for row in results["rows"]]
    assert read["configuration"]["source"] == "tensors"  # and not where the data lies
    with (folder / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(results["rows"])
    for line, row in zip(table, results["rows"], strict=True):
        assert float(line["accuracy_test"]) == row["accuracy_test"]
        assert float(line["mia_loss_auc"]) == row["mia"]["loss"]["auc"]["value"]


def test_what_is_finished_is_not_run_again_and_more_may_be_asked_for(
    results: dict[str, Any], comparison: Comparison, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    get = methods.get
    more = replace(comparison, entries=(*comparison.entries, parse("randomk:ratio=0.5")), seeds=(0,))
    monkeypatch.setattr(trial, "methods", SimpleNamespace(get=lambda name: called.append(name) or get(name)))
    again = comparisons.run(comparison, folder, progress=False)
    assert not called
    assert again["rows"] == json.loads(json.dumps(results["rows"]))
    found = comparisons.run(more, folder, progress=False)
    assert called == ["randomk"] * 2
    assert len(found["rows"]) == 12


def test_a_run_that_was_killed_goes_on_where_it_was(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get, called = methods.get, []

    def interrupted(name: str) -> methods.Method:
        called.append(name)
        if len(called) == 2:
            raise KeyboardInterrupt
        return get(name)

    monkeypatch.setattr(trial, "methods", SimpleNamespace(get=interrupted))
    small = replace(comparison, requests=(Request("random"),), seeds=(0,))
    with pytest.raises(KeyboardInterrupt):
        comparisons.run(small, tmp_path / "out", progress=False)
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 3  # source, retrained, fine-tuning
    assert not (tmp_path / "out" / "results.json").exists()
    calls = tmp_path / "out" / "calls.json"
    assert json.loads(calls.read_text())["seconds"] > 0
    calls.write_text('{"seconds": 1000.0}')
    results = comparisons.run(small, tmp_path / "out", progress=False)
    assert called == ["finetune", "topk", "topk", "ssd"]
    assert 1000 < results["seconds"] < json.loads(calls.read_text())["seconds"] < 2000  # of both calls
    assert [row["name"] for row in results["rows"]] == NAMES


def test_other_options_are_another_row(comparison: Comparison, tmp_path: Path) -> None:
    task = comparisons.tasks_of(comparison, tmp_path, comparison.source)[0]
    paths = {task.path("topk", {"ratio": ratio}) for ratio in (0.1, 0.2)}
    paths |= {replace(task, training=Training()).path("topk", {"ratio": 0.1})}
    paths |= {replace(task, limit=7).path("topk", {"ratio": 0.1})}
    assert len(paths) == 4


def test_a_folder_of_another_experiment_is_left_alone(
    results: dict[str, Any], comparison: Comparison, folder: Path, tmp_path: Path
) -> None:
    before = sorted(p.name for p in folder.rglob("*"))
    other = replace(comparison, training=replace(comparison.training, epochs=3))
    with pytest.raises(OtherExperimentError, match=r"holds another experiment: its training is .*'epochs': 2"):
        comparisons.run(other, folder, progress=False)
    with pytest.raises(OtherExperimentError, match="its limit is None, and not 40"):
        comparisons.run(replace(comparison, limit=40), folder, progress=False)
    assert sorted(p.name for p in folder.rglob("*")) == before
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(OtherExperimentError, match="holds files that are not a comparison's"):
        comparisons.run(comparison, tmp_path, progress=False)


@pytest.mark.parametrize("argument", ["requests", "entries", "seeds"])
def test_nothing_to_run_is_an_error(argument: str, comparison: Comparison, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{argument} must hold at least one, got \(\)"):
        comparisons.run(replace(comparison, **{argument: ()}), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_method_that_diverges_is_a_row_that_says_so(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = methods.get

    def diverging(*args: object, **kwargs: object) -> None:
        raise DivergedError("it diverged: the loss is nan")

    monkeypatch.setattr(
        trial, "methods", SimpleNamespace(get=lambda name: diverging if name == "finetune" else get(name))
    )
    small = replace(comparison, requests=(Request("random"),), seeds=(0,))
    results = comparisons.run(small, tmp_path / "out", progress=False)
    failed = next(row for row in results["summary"][0]["rows"] if row["name"].startswith("finetune"))
    assert (failed["failed"], failed["failures"]) == ("it diverged: the loss is nan", 1)
    assert results["summary"][0]["best"]["others"] == "ssd:alpha=2"
    assert (tmp_path / "out" / "results.csv").read_text().count("it diverged") == 1


def test_a_method_that_really_diverges_is_kept_as_failed_and_the_others_go_on(
    comparison: Comparison, tmp_path: Path
) -> None:
    entries = (parse("finetune:lr=1e30,epochs=2"), parse("ssd:alpha=2"))
    small = replace(comparison, requests=(Request("random"),), seeds=(0,), entries=entries)
    results = comparisons.run(small, tmp_path / "out", progress=False)
    diverged, other = results["rows"][2:]
    assert diverged["failed"].startswith("it diverged")
    assert diverged["options"]["lr"] == 1e30
    assert "failed" not in other
    assert comparisons.run(small, tmp_path / "out", progress=False)["rows"][2] == diverged


def test_a_method_whose_model_has_no_finite_outputs_is_a_row_that_says_so(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = methods.get

    def blown_up(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = get("finetune")(model, *args, **kwargs)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1e25)  # finite itself
        return result

    monkeypatch.setattr(
        trial, "methods", SimpleNamespace(get=lambda name: blown_up if name == "finetune" else get(name))
    )
    small = replace(comparison, requests=(Request("random"),), seeds=(0,))
    results = comparisons.run(small, tmp_path / "out", progress=False)
    assert "NaN or infinite: the model has diverged" in results["rows"][2]["failed"]
    assert [row["name"] for row in results["rows"] if "failed" in row] == ["finetune:epochs=1"]


@pytest.mark.parametrize(
    ("entry", "error", "words"),
    [
        (parse("ssd:alpha=-1"), ValueError, "ssd:alpha=-1: alpha must be >= 0, got -1"),
        (parse("finetune:epochs=1.5"), TypeError, "finetune:epochs=1.5: epochs must be an int, got 1.5"),
        (parse("scrub:max_epochs=9"), ValueError, "scrub:max_epochs=9: max_epochs must be at most epochs, 3, got 9"),
        (parse("salun:ratio=2"), ValueError, r"salun:ratio=2: ratio must be in \[0, 1\], got 2"),
        (parse("fisher_forget:strength=big"), TypeError, "strength=big: strength must be a number, got 'big'"),
        (parse("retrain:new_model=fresh"), TypeError, "new_model must be a function .* got 'fresh'"),
        (parse("topk:ratio=1.5"), ValueError, r"topk:ratio=1.5: ratio must be in \[0, 1\], got 1.5"),
        (parse("topk:k=10000000"), ValueError, "topk:k=10000000: k must be at most"),
        (parse("topk:k=3,ratio=0.1"), ValueError, "topk:k=3,ratio=0.1: .*exactly one of k and ratio"),
        (parse("topk:score=best"), ValueError, "topk:score=best: score must be one of .* got 'best'"),
        (parse("randomk:scope=head"), ValueError, "randomk:scope=head: scope must be one of .* got 'head'"),
        (parse("randomk:perturb=noise"), ValueError, "randomk:perturb=noise: perturb must be one of 'default'"),
        (parse("randomk:perturb=0.5"), TypeError, "randomk:perturb=0.5: perturb must be a Gaussian, .* got 0.5"),
        (parse("random_topk:repair=2"), TypeError, "random_topk:repair=2: repair must be a Repair, got 2"),
        (parse("random_topk:top_share=2"), ValueError, "random_topk:top_share=2: top_share must be .* got 2"),
        (Entry("topk", (("rato", 0.1),)), ValueError, "topk has no option 'rato'; it has ratio"),
        (Entry("topk", (("recipe", "best"),)), ValueError, "recipe must be one of .* got 'best'"),
        (Entry("topc"), ValueError, "did you mean 'topk'"),
    ],
    ids=lambda given: given.name if isinstance(given, Entry) else "",
)
def test_options_are_refused_before_anything_is_trained(
    comparison: Comparison, tmp_path: Path, entry: Entry, error: type[Exception], words: str
) -> None:
    wrong = replace(comparison, entries=(*comparison.entries, entry))
    with pytest.raises(error, match=words):
        comparisons.run(wrong, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_options_of_the_spdgan_are_refused_before_anything_is_trained(comparison: Comparison, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="eps must be finite and > 0, got -1"):
        comparisons.run(replace(comparison, gan={"eps": -1}), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_loses_nothing_that_is_finished(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = trial.write_json, []

    def full(row: dict[str, Any], path: Path) -> None:
        if len(written) == 3:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        write(row, path)

    monkeypatch.setattr(trial, "write_json", full)
    small = replace(comparison, requests=(Request("random"),), seeds=(0,))
    with pytest.raises(OSError, match="No space left"):
        comparisons.run(small, tmp_path / "out", progress=False)
    assert sorted((tmp_path / "out" / "runs").iterdir()) == sorted(written)
    assert all(json.loads(path.read_text()) for path in written)


def test_limits_are_asked_of_the_mean_size_over_the_seeds() -> None:
    sizes = {part: {"mean": 0.01} for part in ("forget", "retain", "test")} | {"mia": {"mean": 0.02}}
    summary = {"gap_sizes": sizes, "average_gap": {"mean": 1.0}, "tug_of_war": {"mean": 0.97}}
    assert all(comparisons._met(summary).values())
    for worse, limit in (
        ({"gap_sizes": {**sizes, "test": {"mean": 0.011}}}, "accuracy gap"),
        ({"gap_sizes": {**sizes, "mia": {"mean": 0.021}}}, "MIA gap"),
        ({"average_gap": {"mean": 1.01}}, "average gap"),
        ({"tug_of_war": {"mean": 0.969}}, "tug of war"),
    ):
        met = comparisons._met({**summary, **worse})
        assert [key for key, kept in met.items() if not kept] == [limit]


def test_gaps_of_opposite_signs_do_not_make_a_small_one(results: dict[str, Any]) -> None:
    rows = [{**row_of(results, "topk"), "seed": seed, "gap_mia": gap} for seed, gap in ((0, 0.05), (1, -0.05))]
    summary = comparisons.summarise("random-0.1", "", rows)["rows"][0]
    assert summary["gap_mia"]["mean"] == 0.0
    assert summary["gap_sizes"]["mia"]["mean"] == 0.05
    assert not summary["met"]["MIA gap"]


def test_other_data_in_the_same_folder_is_refused(
    results: dict[str, Any], comparison: Comparison, folder: Path, tmp_path: Path
) -> None:
    images = torch.rand(150, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    Dataset(images, torch.arange(150) % 3).save(tmp_path / "other.safetensors")
    other = replace(comparison, source=f"tensors:{tmp_path / 'other.safetensors'}")
    with pytest.raises(OtherExperimentError, match="holds another experiment: its data is"):
        comparisons.run(other, folder, progress=False)


def test_a_request_that_the_data_can_not_have_claims_no_folder(comparison: Comparison, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no class 9"):
        comparisons.run(replace(comparison, requests=(Request("class", label=9),)), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stranger", ["{}", '{"name": "ssd"}', "[1]", "not JSON"])
def test_a_file_that_is_not_its_row_is_measured_again(comparison: Comparison, tmp_path: Path, stranger: str) -> None:
    small = replace(comparison, requests=(Request("random"),), seeds=(0,), entries=(parse("randomk"),))
    comparisons.run(small, tmp_path / "out", progress=False)
    for path in (tmp_path / "out" / "runs").iterdir():
        path.write_text(stranger)
    again = comparisons.run(small, tmp_path / "out", progress=False)
    assert [row["name"] for row in again["rows"]] == ["source", "retrained", "randomk"]


def test_the_best_keeps_the_limits_if_one_does() -> None:
    def candidate(name: str, gap: float, kept: bool) -> dict[str, Any]:
        met = {"a": True, "b": kept}
        return {"name": name, "method": name.partition(":")[0], "average_gap": {"mean": gap}, "met": met}

    assert comparisons._best([candidate("near", 0.1, False), candidate("kept", 0.9, True)]) == "kept"
    assert comparisons._best([candidate("near", 0.1, False), candidate("far", 0.9, False)]) == "near"
    varied = candidate("far:k=3", 0.0, True)
    assert comparisons._best([varied, candidate("near", 0.1, False)]) == "near"  # the luckiest of many is no finding
    assert comparisons._best([varied]) == "far:k=3"
    assert comparisons._best([]) is None
