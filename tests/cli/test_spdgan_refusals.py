"""``fgunlearn spdgan`` with bad input, or interrupted: a line on stderr, and every file as it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import fgunlearn as fg
from command_line import Run, press_ctrl_c, refused, start, wait_for
from spdgan_commands import evaluate, network, perturb, train

OLD = b"the old one"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"eps": 0}, ["eps", "0.0"]),
        ({"eps": "nan"}, ["eps", "nan"]),
        ({"norm": "l2", "radius": -1}, ["radius", "-1.0"]),
        ({"norm": "l3"}, ["norm", "'l3'"]),
        ({"lo": 1, "hi": 0}, ["lo=1.0", "hi=0.0"]),
        ({"lo": 100}, ["lo", "100.0"]),
        ({"lo": -0.5, "hi": 0.5, "outside": "error"}, ["[lo, hi]"]),
        ({"outside": "anything"}, ["outside", "'anything'"]),
        ({"width": 5}, ["width", "5"]),
        ({"steps": 0}, ["steps", "0"]),
        ({"batch": 1}, ["batch", "1"]),
        ({"lr": -1}, ["lr", "-1.0"]),
        ({"lr": 1e30, "steps": 60}, ["diverged", "lr"]),
        ({"accuracy_budget": 2}, ["accuracy_budget", "2.0"]),
        ({"magnitude": -1}, ["magnitude", "-1.0"]),
        ({"shift_weight": "inf"}, ["shift_weight", "inf"]),
        ({"layer": "nowhere"}, ["--layer", "'nowhere'"]),
        ({"model": "nowhere"}, ["--model", "nowhere"]),
        ({"model": "unlearned.safetensors", "arch": "architecture:bare"}, ["--model", "does not fit"]),
        ({"model": "bare.safetensors", "arch": "architecture:tuples"}, ["logits", "tuple"]),
        ({"features_model": "nowhere"}, ["--features-model", "nowhere"]),
        ({"features_model": "bare.safetensors"}, ["--features-model", "does not fit"]),
        ({"data": "model.safetensors"}, ["--data", "x and y"]),
        ({"forget": "one.txt"}, ["--forget", "one.txt", "1 row", "2 or more"]),
        ({"forget": "nowhere"}, ["--forget", "nowhere"]),
        ({"figures": "nowhere"}, ["--figures", "nowhere"]),
    ],
)
def test_train_refuses_in_one_line_and_leaves_the_old_file(
    run: Run, work: Path, changes: dict[str, object], parts: list[str]
) -> None:
    (work / "gan.safetensors").write_bytes(OLD)
    refused(run(*train(**changes)), *parts)
    assert (work / "gan.safetensors").read_bytes() == OLD
    assert not list(work.glob(".*"))


@pytest.mark.parametrize(
    ("tensors", "parts"),
    [
        (lambda x, y: {"x": x.long(), "y": y}, ["torch.int64", "floating-point"]),
        (lambda x, y: {"x": x.where(x < x.max(), torch.nan), "y": y}, ["NaN"]),
        (lambda x, y: {"x": x.double(), "y": y}, ["torch.float64", "does not take"]),
        (lambda x, y: {"x": x[:, :5].contiguous(), "y": y}, ["(5,)", "does not take"]),
        (lambda x, y: {"x": x, "y": y + 1}, ["labels", "[0, 3)", "got 3"]),
        (lambda x, y: {"x": x, "y": y - 1}, ["labels", "[0, 3)", "got -1"]),
        (lambda x, y: {"x": x, "y": y.float()}, ["int64", "torch.float32"]),
        (lambda x, y: {"x": torch.tensor(1.0), "y": y}, ["one label per row", "()"]),
    ],
)
def test_train_refuses_data_that_does_not_fit(
    run: Run, work: Path, tensors: Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]], parts: list[str]
) -> None:
    save_file(tensors(torch.randn(60, 6), torch.arange(60) % 3), "data.safetensors")
    refused(run(*train()), "--data", *parts)
    assert not (work / "gan.safetensors").exists()


def test_a_budget_that_can_t_be_kept_is_refused(run: Run, work: Path) -> None:
    model = network()
    model.load_state_dict(load_file("model.safetensors"))
    x = load_file("data.safetensors")["x"].clone()
    with torch.no_grad():
        save_file({"x": x, "y": model.eval()(x).argmax(1)}, "data.safetensors")
    refused(run(*train(lo=-1e-3, hi=1e-3, accuracy_budget=0)), "accuracy_budget=0.0", "100.00%")
    assert not (work / "gan.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (train(out="nowhere/gan.safetensors"), "--out"),
        (perturb(out="nowhere/out.safetensors"), "--out"),
        (evaluate(json="nowhere/degree.json"), "--json"),
    ],
)
def test_a_missing_folder_is_found_before_anything_is_read(
    run: Run, work: Path, arguments: list[object], option: str
) -> None:
    refused(run(*arguments), option, "there is no folder nowhere")
    assert not (work / "made").exists()


def test_a_folder_is_no_file_to_write(run: Run, work: Path) -> None:
    (work / "folder").mkdir()
    refused(run(*train(out="folder")), "--out", "folder is a folder")


def damage(path: Path) -> None:
    """Not in its header, which the reader of safetensors files checks itself."""
    tensors = {name: value for name, value in load_file(path).items() if name != "range.low"}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(tensors, path, metadata=metadata)


@pytest.mark.parametrize("arguments", [perturb(), evaluate(json="out.safetensors")])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text("not one"),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(Path("model.safetensors").read_bytes()),
        damage,
    ],
    ids=["none", "text", "cut short", "foreign", "damaged"],
)
def test_a_gan_file_that_is_none_is_refused(
    run: Run, work: Path, gan: fg.SPDGAN, arguments: list[object], spoil: Callable[[Path], object]
) -> None:
    spoil(work / "gan.safetensors")
    (work / "out.safetensors").write_bytes(OLD)
    refused(run(*arguments), "--gan", "gan.safetensors")
    assert (work / "out.safetensors").read_bytes() == OLD


@pytest.mark.parametrize("arguments", [perturb(), evaluate(json="out.safetensors")])
def test_a_gan_of_samples_of_another_size_is_refused(
    run: Run, work: Path, gan: fg.SPDGAN, arguments: list[object]
) -> None:
    save_file({"x": torch.randn(60, 7), "y": torch.arange(60) % 3}, "data.safetensors")
    refused(run(*arguments), "--gan", "(6,)", "--data", "(60, 7)" if "perturb" in arguments else "(20, 7)")
    assert not (work / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (perturb(data="ids.txt"), ["--data", "ids.txt"]),
        (perturb(data="bare.safetensors"), ["--data", "the tensor x", "bias, weight"]),
        (perturb(rows="nowhere"), ["--rows", "nowhere"]),
        (perturb(rows="long.txt"), ["--rows", "line 1", "60 rows"]),
        (evaluate(unlearned="bare.safetensors"), ["--unlearned", "does not fit"]),
        (evaluate(unlearned="nowhere"), ["--unlearned", "nowhere"]),
        (evaluate(control="wide.safetensors"), ["--control", "(40, 7)"]),
        (evaluate(control="none.safetensors"), ["--control", "no sample"]),
        (evaluate(control="nowhere"), ["--control", "nowhere"]),
        (evaluate(forget="one.txt"), ["--forget", "1 row"]),
        (evaluate(resamples=0), ["resamples", "0"]),
    ],
)
def test_perturb_and_evaluate_name_the_option_and_the_value(
    run: Run, work: Path, gan: fg.SPDGAN, arguments: list[object], parts: list[str]
) -> None:
    (work / "long.txt").write_text("60\n")
    for name, rows, width in (("wide", 40, 7), ("none", 0, 6)):
        save_file({"x": torch.randn(rows, width), "y": torch.arange(rows) % 3}, f"{name}.safetensors")
    refused(run(*arguments), *parts)
    assert not (work / "out.safetensors").exists()


def test_data_outside_the_range_is_refused_where_training_said_so(run: Run, work: Path) -> None:
    assert run(*train(lo=-9, hi=9, outside="error"))[0] == 0
    save_file({"x": torch.full((4, 6), 10.0)}, "data.safetensors")
    refused(run(*perturb()), "[lo, hi]")
    assert not (work / "out.safetensors").exists()


def test_ctrl_c_ends_training_and_leaves_the_old_file(work: Path) -> None:
    (work / "gan.safetensors").write_bytes(OLD)
    process = start(work, *train(steps=1_000_000, batch=4096, width=128))
    wait_for((work / "made").exists, process)
    time.sleep(0.3)
    press_ctrl_c(process)
    assert (work / "gan.safetensors").read_bytes() == OLD
    assert not list(work.glob(".*"))
