"""``fgunlearn spdgan train | perturb | evaluate``, end to end on a tiny model."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import fgunlearn as fg
from command_line import Run, refused
from fgunlearn import metrics
from spdgan_commands import evaluate, network, perturb, train


@pytest.mark.parametrize("name", [[], ["train"], ["perturb"], ["evaluate"], ["study"]])
def test_every_command_has_help(run: Run, name: list[str]) -> None:
    status, out, _ = run("spdgan", *name, "--help")
    assert status == 0
    assert "Usage" in out


def test_train_writes_what_the_library_would_and_says_what_happened(run: Run, work: Path) -> None:
    status, out, error = run(*train(eps=0.2, norm="l2", radius=0.5, lo=-5, hi=5, seed=3))
    assert (status, error) == (0, "")
    made = fg.SPDGAN.load("gan.safetensors")
    assert (made.eps, made.norm, made.radius, made.lo, made.hi, made.seed) == (0.2, "l2", 0.5, -5.0, 5.0, 3)
    fitted = made.fitted
    assert re.search(r"^steps +4 of at most 4; not levelled off yet", out, re.MULTILINE)
    assert re.search(rf"^scale +{fitted.scale:.3g} ", out, re.MULTILINE)
    assert f"{fitted.accuracy:.1%} on the 20 forget samples as they are, {fitted.shifted_accuracy:.1%} perturbed" in out
    assert re.search(r"squared MMD -?[\d.e-]+, p = [\d.]+ \(1,000 permutations of 20 samples", out)
    assert re.search(r"^seconds +\d+\.\d", out, re.MULTILINE)
    data = load_file("data.safetensors")
    ids = torch.arange(0, 60, 3)
    rest = torch.ones(60, dtype=torch.bool)
    rest[ids] = False
    model = network()
    model.load_state_dict(load_file("model.safetensors"))
    expected = fg.SPDGAN(
        eps=0.2, norm="l2", radius=0.5, lo=-5.0, hi=5.0, width=4, seed=3, fitting=fg.spdgan.Fitting(steps=4, batch=16)
    ).fit(model, [(data["x"][ids], data["y"][ids])], [(data["x"][rest], data["y"][rest])])
    torch.testing.assert_close(made.perturb(data["x"]), expected.perturb(data["x"]))


def test_the_defaults_are_the_library_s(run: Run, work: Path) -> None:
    assert run(*train(steps=1, batch=None, width=None))[0] == 0
    made, library = fg.SPDGAN.load("gan.safetensors"), fg.SPDGAN(fitting=fg.spdgan.Fitting(steps=1))
    assert repr(made).partition(";")[0] == repr(library).partition(";")[0]
    assert made.fitting == library.fitting


def test_features_of_further_models_and_other_layers_are_shifted(run: Run, work: Path) -> None:
    found = []
    for name, changes in (
        ("a", {}),
        ("b", {"features_model": "unlearned.safetensors"}),
        ("c", {"layer": "1"}),
    ):
        assert run(*train(out=name, **changes))[0] == 0
        found.append(fg.SPDGAN.load(name).fitted.history.shift)
    assert found[0] != found[1]
    assert found[0] != found[2]


def test_a_model_without_a_linear_layer_needs_the_name_of_one(run: Run, work: Path) -> None:
    changes = {"model": "convolutional.safetensors", "arch": "architecture:convolutional"}
    refused(run(*train(**changes)), "--layer", "architecture:convolutional", "nn.Linear")
    assert run(*train(**changes, layer="1"))[0] == 0


def test_a_model_may_forget_all_it_has(run: Run, work: Path) -> None:
    (work / "ids.txt").write_text("\n".join(map(str, range(60))))
    assert run(*train())[0] == 0


def test_train_draws_its_figures(run: Run, work: Path) -> None:
    (work / "figures").mkdir()
    status, out, error = run(*train(figures="figures"))
    assert (status, error) == (0, "")
    for name in ("samples.png", "training.png"):
        assert (work / "figures" / name).read_bytes().startswith(b"\x89PNG")
        assert f"figures/{name}" in out


def test_without_matplotlib_figures_are_refused_before_training(
    run: Run, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "figures").mkdir()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused(run(*train(figures="figures")), "pip install 'fgunlearn[report]'")
    assert not (work / "made").exists()
    assert run(*train())[0] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_perturb_changes_x_and_nothing_else(run: Run, work: Path, gan: fg.SPDGAN, dtype: torch.dtype) -> None:
    x = torch.randn(600, 6).to(dtype)
    others = {"y": torch.arange(600), "weight": torch.rand(600, dtype=torch.float64)}
    save_file({"x": x, **others}, "data.safetensors", metadata={"from": "yesterday"})
    status, out, error = run(*perturb())
    assert (status, error) == (0, "")
    after = load_file("out.safetensors")
    assert after["x"].dtype == dtype
    torch.testing.assert_close(after.pop("x"), gan.perturb(x))
    assert after.keys() == others.keys()
    assert all(torch.equal(after[name], value) for name, value in others.items())
    with safe_open("out.safetensors", framework="pt") as file:
        assert file.metadata() == {"from": "yesterday"}
    assert torch.equal(load_file("data.safetensors")["x"], x)
    assert "600 of 600 samples perturbed" in out


def test_perturb_can_replace_its_own_input_in_some_rows(run: Run, work: Path, gan: fg.SPDGAN) -> None:
    before = load_file("data.safetensors")["x"].clone()
    assert "20 of 60 samples" in run(*perturb(out="data.safetensors", rows="ids.txt"))[1]
    after = load_file("data.safetensors")["x"]
    changed = (after != before).any(1)
    assert changed.nonzero().flatten().tolist() == list(range(0, 60, 3))


def test_perturb_takes_a_file_without_samples(run: Run, work: Path, gan: fg.SPDGAN) -> None:
    save_file({"x": torch.zeros(0, 6)}, "data.safetensors")
    assert "0 of 0 samples" in run(*perturb())[1]
    assert load_file("out.safetensors")["x"].shape == (0, 6)


@pytest.mark.parametrize("control", [None, "control.safetensors"])
def test_evaluate_prints_and_writes_what_the_library_finds(
    run: Run, work: Path, gan: fg.SPDGAN, control: str | None
) -> None:
    status, out, error = run(*evaluate(json="degree.json", control=control, seed=5))
    assert (status, error) == (0, "")
    source, unlearned = network(), network()
    source.load_state_dict(load_file("model.safetensors"))
    unlearned.load_state_dict(load_file("unlearned.safetensors"))
    data = load_file("data.safetensors")
    forget = [(data["x"][::3], data["y"][::3])]
    held = None if control is None else [tuple(load_file(control)[name] for name in ("x", "y"))]
    written = json.loads((work / "degree.json").read_text())
    for key, shift in (("as_is", None), ("perturbed", gan)):
        expected = metrics.unlearning_degree(source, unlearned, forget, shift, held, resamples=50, seed=5)
        assert written[key] == asdict(expected)
    assert written["samples"] == ({"forget": 20} if control is None else {"forget": 20, "control": 40})
    assert written["gan"]["scale"] == gan.fitted.scale
    for label, name, scale, digits in (
        ("UD_acc, points", "acc", 100, 1),
        ("UD_net, points", "net", 100, 1),
        ("UD_loss, nats", "loss", 1, 3),
    ):
        line = re.search(rf"^{label}.*$", out, re.MULTILINE)
        if written["perturbed"][name] is None:
            assert line is None
            continue
        assert line is not None
        for key in ("as_is", "perturbed"):
            for value in written[key][name].values():
                assert f"{round(scale * value, digits) + 0.0:+.{digits}f}" in line[0]
    assert ("Without --control" in out) == (control is None)
    assert "a model retrained without the forget data" in out


def test_a_model_is_no_further_than_itself(run: Run, work: Path, gan: fg.SPDGAN) -> None:
    _, out, _ = run(*evaluate(unlearned="model.safetensors"))
    assert re.search(r"^UD_net, points( +\+0\.0 \[\+0\.0, \+0\.0\]){2}", out, re.MULTILINE)
    assert "holds 0: these samples do not show" in out


@pytest.mark.parametrize(("low", "high", "verdict"), [(0.1, 0.3, "is above 0"), (-0.3, -0.1, "is below 0")])
def test_the_verdict_is_about_the_interval_of_the_net_degree(
    run: Run, work: Path, gan: fg.SPDGAN, monkeypatch: pytest.MonkeyPatch, low: float, high: float, verdict: str
) -> None:
    interval = metrics.Interval((low + high) / 2, low, high)
    found = metrics.UnlearningDegree(interval, interval, interval, interval, 1.0, 0.9, 1.0, 1.0, 0.9)
    monkeypatch.setattr("fgunlearn.cli.spdgan.unlearning_degree", lambda *arguments, **options: found)
    assert f"UD_net {verdict}" in run(*evaluate())[1]
