from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fgunlearn.experiment.data import Dataset, split
from fgunlearn.experiment.degree import study, trial
from fgunlearn.experiment.degree.models import METHODS, RETRAINED, RETRAINED_AGAIN
from fgunlearn.experiment.degree.settings import SETTINGS, Setting, scenario_of
from fgunlearn.experiment.degree.shifts import ABLATIONS, GAN, NOISE, PLAIN, Noise
from fgunlearn.experiment.degree.study import Study
from fgunlearn.experiment.training import Training
from fgunlearn.report.degree import methods_figure, shifts_figure
from fgunlearn.spdgan import Fitting

pytest.importorskip("scipy", reason="rank correlations need scipy, which scikit-learn brings")

TINY = Training(widths=(8, 8), epochs=2)
GAN_ARGUMENTS = {"width": 4, "blocks": 0, "fitting": Fitting(steps=12, batch=16, check_every=4)}
NAMES = ("random", "mislabel")


def tiny_data() -> Dataset:
    """240 small images of three classes that differ in brightness of a quarter."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 3
    images = 0.3 * torch.rand(240, 1, 8, 8, generator=generator)
    for label, (row, column) in enumerate([(0, 0), (0, 4), (4, 0)]):
        images[labels == label, :, row : row + 4, column : column + 4] += 1.0
    return Dataset(images, labels)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("study") / "data.safetensors"
    tiny_data().save(path)
    return f"tensors:{path}"


@pytest.fixture(scope="module")
def found(source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    asked = Study(source=source, settings=NAMES, seeds=(0, 1), jobs=1, training=TINY, gan=GAN_ARGUMENTS)
    return study.run(asked, progress=False)


@pytest.fixture(scope="module")
def results(found: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    return found[0]


def test_every_setting_seed_shift_and_model_is_there(results: dict[str, Any]) -> None:
    assert [(task["setting"], task["seed"]) for task in results["tasks"]] == [(n, s) for n in NAMES for s in (0, 1)]
    for task in results["tasks"]:
        names = [row["name"] for row in task["shifts"]]
        assert names[:2] == [PLAIN, GAN]
        assert {*ABLATIONS, NOISE} <= set(names)
        assert [row["name"] for row in task["methods"]] == ["source", RETRAINED, RETRAINED_AGAIN, *METHODS]


def test_the_source_against_itself_is_zero_under_every_shift(results: dict[str, Any]) -> None:
    for task in results["tasks"]:
        assert [row["itself"] for row in task["shifts"]] == [0.0] * len(task["shifts"])
        for degree in task["methods"][0]["degree"].values():
            assert (degree["acc"]["value"], degree["net"]["value"], degree["net_loss"]["value"]) == (0.0, 0.0, 0.0)


def test_the_retrained_models_distance_to_itself_is_zero_and_others_is_not(results: dict[str, Any]) -> None:
    for task in results["tasks"]:
        distances = {row["name"]: row["distance"] for row in task["methods"]}
        assert distances.pop(RETRAINED) == pytest.approx(0.0, abs=1e-12)
        assert min(distances.values()) > 0


def test_noise_of_the_same_size_is_as_large_as_the_gans_shift(results: dict[str, Any]) -> None:
    for task in results["tasks"]:
        rms = {row["name"]: row.get("rms") for row in task["shifts"]}
        assert rms["noise, same size"] == pytest.approx(rms[GAN], abs=2e-3)


def test_every_calibrated_shift_keeps_to_the_accuracy_budget(results: dict[str, Any]) -> None:
    for task in results["tasks"]:
        for row in task["shifts"]:
            if row["name"] not in (PLAIN, "noise, same size"):
                assert row["source_accuracy_unshifted"] - row["source_accuracy"] <= 0.1 + 1e-9, row["name"]


def test_correlations_are_correlations_or_undefined(results: dict[str, Any]) -> None:
    for task in results["tasks"]:
        for by_shift in task["correlation"].values():
            assert by_shift.keys() == {"deep_acc", "near_acc", "deep_loss", "near_loss"}
            assert all(math.isnan(value) or -1.0 <= value <= 1.0 for value in by_shift.values())


def test_models_of_equal_degree_but_for_rounding_share_a_rank() -> None:
    """|0.1 - 0.2| and |0.3 - 0.2| are not equal in floating point."""

    def model(name: str, net: float, distance: float) -> dict[str, Any]:
        degree = {part: {"value": net} for part in ("net", "net_loss")}
        return {"name": name, "distance": distance, "degree": {GAN: degree}}

    nets = dict(zip(METHODS, (0.1, 0.3, 0.1, 0.3, 0.1), strict=True))
    methods = [model("source", 0.0, 0.9), model(RETRAINED, 0.2, 0.0), model(RETRAINED_AGAIN, 0.2, 0.1)]
    methods += [model(name, net, 0.2 + 0.1 * i) for i, (name, net) in enumerate(nets.items())]
    found = trial._correlations(methods, GAN)
    # By the degree's gap the second retrained one is first, the source last, and the five of 0.1 share rank 4 of 7.
    assert found["near_acc"] == found["near_loss"] == pytest.approx(18 / math.sqrt(18 * 28))


def test_without_scipy_nothing_is_trained(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    monkeypatch.setattr(trial, "run", lambda task: pytest.fail("trained"))
    with pytest.raises(ImportError, match=r"rank correlations need scipy: pip install 'fgunlearn\[eval\]'"):
        study.run(Study(source=source, jobs=1), progress=False)


@pytest.mark.parametrize("argument", ["settings", "seeds"])
def test_nothing_to_run_is_an_error(argument: str, source: str) -> None:
    with pytest.raises(ValueError, match=rf"{argument} must hold at least one, got \(\)"):
        study.run(Study(**{"source": source, argument: ()}), progress=False)


def test_the_summary_counts_intervals_instead_of_averaging_them(results: dict[str, Any]) -> None:
    tasks = [task for task in results["tasks"] if task["setting"] == "mislabel"]
    nets = [task["shifts"][1]["retrained"]["net"] for task in tasks]
    merged = results["summary"]["mislabel"]["shifts"][1]["retrained"]["net"]
    assert merged["mean"] == pytest.approx(sum(net["value"] for net in nets) / 2)
    assert merged["excludes_zero"] == sum(net["low"] > 0 or net["high"] < 0 for net in nets)
    assert "low" not in merged


def test_samples_come_back_before_and_after_the_shift(found: tuple[dict[str, Any], dict[str, Any]]) -> None:
    results, samples = found
    assert samples.keys() == set(NAMES)
    for before, after in samples.values():
        assert before.shape == after.shape == (trial.PICTURED, 1, 8, 8)
        assert bool((before != after).any())
    assert all("samples" not in task for task in results["tasks"])


def test_worker_processes_give_the_same_figures(source: str, results: dict[str, Any]) -> None:
    asked = Study(source=source, settings=("random",), seeds=(0, 1), jobs=2, training=TINY, gan=GAN_ARGUMENTS)
    parallel, _ = study.run(asked, progress=False)
    ours = [task for task in results["tasks"] if task["setting"] == "random"]
    for task, other in zip(ours, parallel["tasks"], strict=True):
        assert [m["distance"] for m in task["methods"]] == [m["distance"] for m in other["methods"]]
        assert [s["source_accuracy"] for s in task["shifts"]] == [s["source_accuracy"] for s in other["shifts"]]


def test_a_setting_may_train_on_few_samples_and_keeps_the_test_data_whole() -> None:
    whole = split(tiny_data(), 0)
    few = Setting(name="few", title="", scenario="random", share=0.5, train=40)
    scenario = scenario_of(few, whole, 3)
    assert (len(scenario.train), len(scenario.forget), len(scenario.retain)) == (40, 20, 20)
    assert len(scenario.test) == len(whole.test)
    assert torch.equal(scenario.forget.images, scenario_of(few, whole, 3).forget.images)
    assert SETTINGS["few"].train == 250


def test_noise_stays_in_the_range_and_is_a_function_of_the_seed() -> None:
    x = torch.rand(16, 2, 8, 8)
    noise = Noise(0.2, torch.zeros(2), torch.ones(2), seed=1)
    shifted = noise.perturb(x)
    assert torch.equal(shifted, torch.cat([noise.perturb(part) for part in x.split(5)]))
    assert not torch.equal(shifted[0] - x[0], shifted[1] - x[1])
    assert float(shifted.min()) >= 0.0
    assert float(shifted.max()) <= 1.0
    assert 0.1 < float((shifted - x).square().mean().sqrt()) < 0.2
    assert not torch.equal(shifted, Noise(0.2, torch.zeros(2), torch.ones(2), seed=2).perturb(x))


def test_the_figures_show_every_setting_shift_and_model(results: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    shifts = shifts_figure(results)
    assert [panel.get_title() for panel in shifts.axes] == [SETTINGS[name].title for name in NAMES]
    assert [label.get_text() for label in shifts.axes[0].get_yticklabels()][:2] == ["no shift", GAN]
    models = methods_figure(results)
    assert len(models.axes) == 4
    legend = [text.get_text() for text in models.legends[0].get_texts()]
    assert [line.partition(" (")[0] for line in legend] == ["source", RETRAINED, RETRAINED_AGAIN, *METHODS]
    assert all(axes.get_xlabel() for axes in models.axes[2:])
