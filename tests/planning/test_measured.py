"""What the formulas say of memory, beside what a process of its own holds at the most."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fgunlearn.benchmarks import scale_run
from fgunlearn.benchmarks.decoder import Decoder, next_token_loss, shape_of
from fgunlearn.planning import ModelSize, Setting, made

KEYS = {
    "streaming": {"select": "select_streaming", "step 2": "repair_freed"},
    "dense": {"select": "select_dense"},
    "adamw": {"step 2": "adamw"},
}
MARGIN = 24 * 2**20
"""Bytes that a peak of this small model may differ by from the formulas, either way, beside a tenth of the peak.

Formulas are upper bounds: activations and gradients don't all live at one time, and the coordinates around the
threshold are few. A process has caches and threads that are no part of them."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells a peak of memory")
    path = tmp_path_factory.mktemp("scale") / "found.json"
    command = [sys.executable, "-m", "fgunlearn.benchmarks.scale_run", "--params", "1e7", "--length", "32"]
    done = subprocess.run(
        [*command, "--threads", "1", "--json", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


@pytest.mark.parametrize(("way", "phase"), [(way, phase) for way, phases in KEYS.items() for phase in phases])
def test_a_peak_is_what_the_formulas_say(found: dict[str, Any], way: str, phase: str) -> None:
    sizes, (run,) = found["model"], [run for run in found["runs"] if run["way"] == way]
    peaks = {one["phase"]: one["peak"] for one in run["phases"]}
    gradient = 2 * sizes["largest_tensor"]
    planned = made(
        ModelSize(sizes["parameters"], "bf16", sizes["layers"], sizes["width"], sizes["largest_tensor"]),
        Setting(k=found["k"], tokens=32, activations=max(0, peaks[scale_run.PASS] - found["weights"] - gradient)),
    )
    said = planned.way(KEYS[way][phase]).memory.total
    assert abs(said - peaks[phase]) < MARGIN + 0.1 * peaks[phase]


def test_streaming_and_freed_gradients_stay_near_a_bare_pass_and_dense_ways_do_not(found: dict[str, Any]) -> None:
    beside = {run["way"]: run["beside_the_pass"] for run in found["runs"]}
    n = found["model"]["parameters"]
    assert beside["streaming"] < MARGIN < min(beside["dense"], beside["adamw"])
    assert beside["dense"] > 4 * n
    assert found["target_met"]


def test_every_phase_has_its_time_and_streaming_takes_two_passes(found: dict[str, Any]) -> None:
    streaming = found["runs"][0]
    assert [phase["phase"] for phase in streaming["phases"]][:3] == [scale_run.BUILT, scale_run.PASS, "select"]
    assert all(phase["seconds"] > 0 for phase in streaming["phases"])
    assert streaming["phases"][2]["passes"] == 2
    assert found["machine"]["cores"] >= 1


def test_a_process_without_enough_memory_is_reported() -> None:
    failed = scale_run.in_a_process("adamw", 0.3, ["--params", "1e8", "--batch", "1", "--length", "8"])
    assert "failed" in failed
    assert "peak" not in scale_run.summary(failed)


@pytest.mark.parametrize("parameters", [2e6, 2e7, 1e8, 1.1e9, 8e9])
def test_a_shape_has_about_the_parameters_asked_for(parameters: float) -> None:
    assert shape_of(parameters).parameters == pytest.approx(parameters, rel=0.1)


def test_a_decoder_has_the_shape_s_parameters_in_its_own_dtype() -> None:
    shape = shape_of(2e6)
    model = Decoder(shape, torch.bfloat16)
    sizes = [p.numel() for p in model.parameters()]
    assert (sum(sizes), max(sizes)) == (shape.parameters, shape.largest_tensor)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert torch.isfinite(next_token_loss(model, torch.arange(20).reshape(2, 10)))


def test_too_small_a_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match="parameters must be at least 1e6, got 1000"):
        shape_of(1000)
