"""``fgunlearn plan``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import Run, refused
from fgunlearn.planning import DEVICES, ModelSize, Setting, made

USUAL = ("plan", "--params", "8e9", "--k", "0.1%")


def test_plan_prints_every_way_and_writes_the_figures(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    status, out, error = run(*USUAL, "--device", "h200", "--memory", 40, "--recompute", "--json", path)
    assert (status, error) == (0, "")
    held = json.loads(path.read_text())
    setting = Setting(k=8_000_000, tokens=4096, recompute=True)
    planned = made(ModelSize.of(8 * 10**9), setting, DEVICES["h200"].rates, 40 * 2**30)
    assert held == json.loads(json.dumps(planned.as_json()))
    assert held["kind"] == "arithmetic, not measured"
    for way in planned.ways:
        assert way.name in out
    assert {way["key"]: way["fits"] for way in held["ways"]} == {
        "select_dense": False,
        "select_streaming": True,
        "repair": True,
        "repair_freed": True,
        "adamw": False,
        "adamw_mixed": False,
    }
    assert "arithmetic for 8e+09 bf16 parameters, k = 8,000,000" in out
    assert "(an estimate)" in out


def test_what_is_given_is_taken(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    options = {
        "--params": "1.1B",
        "--k": "1e6",
        "--dtype": "float32",
        "--gpus": 4,
        "--memory": 24,
        "--tflops": 0.5,
        "--bandwidth": 20,
        "--link": 10,
        "--tokens": "2e3",
        "--batches": 3,
        "--score": "fisher",
        "--optimizer": "momentum",
        "--layers": 20,
        "--width": 2048,
        "--largest-tensor": "65e6",
        "--activations": 1.5,
        "--memory-budget": 512,
    }
    status, out, error = run("plan", *(word for pair in options.items() for word in pair), "--tied", "--json", path)
    assert (status, error) == (0, "")
    held = json.loads(path.read_text())
    assert held["model"] == {
        "parameters": 1_100_000_000,
        "dtype": "f32",
        "layers": 20,
        "width": 2048,
        "largest_tensor": 65_000_000,
        "tied": True,
    }
    assert held["setting"]["devices"] == 4
    assert held["setting"]["activations"] == 3 * 2**29
    assert held["setting"]["memory_budget"] == 2**29
    assert held["rates"] == {"flops": 5e11, "bandwidth": 2e10, "link": 1e10}
    assert held["capacity"] == 24 * 2**30
    assert all(way["seconds"] > 0 for way in held["ways"])
    assert "* FSDP2 takes a backward pass whole" in out
    assert "groups of parameters" in out
    assert "estimate" not in out


def test_what_is_not_known_is_asked_for(run: Run) -> None:
    status, out, _ = run(*USUAL)
    assert status == 0
    assert "give --memory" in out
    assert "give --tflops and --bandwidth" in out
    _, out, _ = run(*USUAL, "--gpus", 8, "--device", "a100")
    assert "give --link" in out


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        (["--params", "8X"], ["--params must be a number like 8e9", "'8X'"]),
        (["--params", "0"], ["--params", "at least 1", "'0'"]),
        (["--k", "120%"], ["--k must be between 0% and 100%", "'120%'"]),
        (["--k", "9e9"], ["--k", "'9e9'"]),
        (["--k", "some"], ["--k", "'some'"]),
        (["--dtype", "int8"], ["--dtype must be one of bf16", "'int8'"]),
        (["--device", "tpu"], ["--device must be one of", "'tpu'"]),
        (["--score", "loss"], ["--score must be one of grad", "'loss'"]),
        (["--optimizer", "lion"], ["--optimizer must be one of sgd, momentum, adamw", "'lion'"]),
        (["--gpus", "0"], ["--gpus", "'0'"]),
        (["--memory", "0"], ["--memory must be positive", "0.0"]),
        (["--memory", "nan"], ["--memory must be positive", "nan"]),
        (["--bandwidth", "-1"], ["--bandwidth must be positive", "-1.0"]),
        (["--tflops", "inf"], ["--tflops", "inf"]),
        (["--link", "0"], ["--link", "0.0"]),
        (["--activations", "-1"], ["--activations must be at least 0", "-1.0"]),
        (["--tokens", "1.5"], ["--tokens", "'1.5'"]),
        (["--largest-tensor", "9e9"], ["--largest-tensor must be at most --params", "'9e9'"]),
        (["--json", "nowhere/plan.json"], ["--json", "nowhere"]),
    ],
)
def test_bad_input_is_one_line_that_names_option_and_value(run: Run, asked: list[str], parts: list[str]) -> None:
    usual = {"--params": "8e9", "--k": "0.1%"}
    rest = [word for pair in usual.items() if pair[0] not in asked for word in pair]
    refused(run("plan", *rest, *asked), *parts)
