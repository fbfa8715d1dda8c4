"""A large model through selection, perturbation and a step of repair: seconds and peak memory of each phase.

``python -m fgunlearn.benchmarks.scale_run --params 1.1e9 --json scale-1.1e9.json`` runs each way in a process of its
own, on the CPU, under Linux: "streaming" (streaming selection, repair with freed gradients), "dense" (dense selection
alone) and "adamw" (steps of torch's dense AdamW). Memory is what the process holds beyond what it held before the model
was made. A way that did not fit has what happened under "failed" and the phases up to there. With ``--busy``, on a
machine that has other work, seconds are left out: they would be no figures.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fgunlearn as fg
from fgunlearn import machine
from fgunlearn.benchmarks.decoder import Decoder, next_token_loss, shape_of
from fgunlearn.benchmarks.repair_step import reset_peak, resident
from fgunlearn.files import replacing

WAYS = ("streaming", "dense", "adamw")
BUILT, PASS = "make the model", "forward and backward"  # phases that every way begins with
SHARE = 0.001  # of the coordinates that are selected
ALLOWANCE = 2**30  # what the streaming way may need beside weights and activations
LEARNING_RATE = 1e-4


class Phases:
    """What each phase took, as it ends: printed at once, so that a process that is killed has left the others."""

    def __init__(self) -> None:
        reset_peak()
        self._base = resident("VmRSS")

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[dict[str, Any]]:
        """Measures what happens within; takes what else is to be said of it."""
        more: dict[str, Any] = {}
        reset_peak()
        start = time.perf_counter()
        yield more
        seconds = time.perf_counter() - start
        gc.collect()
        found = {
            "phase": name,
            "seconds": seconds,
            "peak": resident("VmHWM") - self._base,
            "after": resident("VmRSS") - self._base,
            **more,
        }
        print(json.dumps(found), flush=True)


def backward_alone(model: nn.Module, ids: Tensor) -> None:
    """A forward and backward pass with each gradient thrown away as it comes: what no method does without."""

    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    handles = [parameter.register_post_accumulate_grad_hook(drop) for parameter in model.parameters()]
    next_token_loss(model, ids).backward()
    for handle in handles:
        handle.remove()


def streaming(phases: Phases, model: nn.Module, ids: Tensor) -> None:
    with phases.phase("select") as more:
        more["passes"] = 0

        def counted(model: nn.Module, ids: Tensor) -> Tensor:
            more["passes"] += 1
            return next_token_loss(model, ids)

        selection = fg.select(model, [ids], counted, fg.TopK(SHARE), memory="streaming")
    with phases.phase("perturb"):
        fg.perturb_(model, selection, fg.Gaussian(0.1))
    with phases.phase("make the optimizer"):
        wrapped = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
        optimizer = fg.SparseOptimizer(wrapped, selection, model=model, free_grads=True)
    _steps(phases, model, ids, optimizer)


def dense(phases: Phases, model: nn.Module, ids: Tensor) -> None:
    with phases.phase("select"):
        fg.select(model, [ids], next_token_loss, fg.TopK(SHARE))


def adamw(phases: Phases, model: nn.Module, ids: Tensor) -> None:
    _steps(phases, model, ids, torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE))


def _steps(phases: Phases, model: nn.Module, ids: Tensor, optimizer: torch.optim.Optimizer) -> None:
    for number in (1, 2):  # the second one finds state beside the gradients
        with phases.phase(f"step {number}"):
            next_token_loss(model, ids).backward()
            optimizer.step()
            optimizer.zero_grad()


def run(way: str, params: float, batch: int, length: int) -> None:
    """One way in this process; a line of JSON per phase."""
    shape = shape_of(params)
    torch.manual_seed(0)
    # What a first pass sets up, and what is imported where it is first needed, is no part of a model.
    warm, few = Decoder(shape_of(1e6), torch.bfloat16), torch.randint(0, 1000, (1, 8))
    backward_alone(warm, few)
    chosen = fg.select(warm, [few], next_token_loss, fg.TopK(SHARE), memory="streaming")
    fg.SparseOptimizer(torch.optim.AdamW(warm.parameters()), chosen)
    del warm, chosen
    phases = Phases()
    with phases.phase(BUILT):
        model = Decoder(shape, torch.bfloat16).train()
    ids = torch.randint(0, shape.words, (batch, length), generator=torch.Generator().manual_seed(1))
    with phases.phase(PASS):
        backward_alone(model, ids)
    ways: dict[str, Callable[[Phases, nn.Module, Tensor], None]] = {
        "streaming": streaming,
        "dense": dense,
        "adamw": adamw,
    }
    ways[way](phases, model, ids)


def in_a_process(way: str, limit: float | None, arguments: list[str]) -> dict[str, Any]:
    """The phases of a way, run in a new process that may have ``limit`` GiB of data; "failed" says how it ended early.

    glibc keeps blocks below a threshold that grows to 32 MiB when they are freed; here it gives them back, so that what
    is measured is what was asked for.
    """

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 2**30),) * 2)

    command = [sys.executable, "-m", "fgunlearn.benchmarks.scale_run", *arguments, "--way", way]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, preexec_fn=limited)
    found: dict[str, Any] = {
        "way": way,
        "phases": [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")],
    }
    if done.returncode < 0:
        found["failed"] = f"ended by signal {-done.returncode}"
    elif done.returncode > 0:
        found["failed"] = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return found


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """A way with its peak, and what that is beyond weights and activations."""
    peaks = {phase["phase"]: phase["peak"] for phase in found["phases"]}
    own = [peak for name, peak in peaks.items() if name not in (BUILT, PASS)]
    if "failed" in found or not own:
        return found
    return {**found, "peak": max(own), "beside_the_pass": max(own) - peaks[PASS]}


def measured(given: argparse.Namespace) -> dict[str, Any]:
    """All that was asked for, ready for JSON."""
    shape = shape_of(given.params)
    arguments = ["--params", str(given.params), "--batch", str(given.batch), "--length", str(given.length)]
    arguments += ["--threads", str(given.threads)]
    runs = [summary(in_a_process(way, given.limit, arguments)) for way in given.ways]
    if given.busy:
        for phase in (phase for one in runs for phase in one["phases"]):
            phase["seconds"] = None
    made: dict[str, Any] = {
        "machine": machine.describe(),
        "date": datetime.date.today().isoformat(),
        "threads": given.threads,
        "limit_gib": given.limit,
        "model": {**asdict(shape), "parameters": shape.parameters, "largest_tensor": shape.largest_tensor},
        "dtype": "bf16",
        "weights": 2 * shape.parameters,
        "batch": given.batch,
        "length": given.length,
        "k": round(SHARE * shape.parameters),
        "allowance": ALLOWANCE,
        "runs": runs,
    }
    for one in runs:
        if one["way"] == "streaming" and "peak" in one:
            made["target_met"] = one["beside_the_pass"] < ALLOWANCE
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=float, default=1e8, help="of the model, about")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=128, help="tokens of a sample")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--limit", type=float, help="GiB of data that a process may have; no limit if not given")
    parser.add_argument("--busy", action="store_true", help="leave seconds out: the machine has other work")
    parser.add_argument("--json", type=Path, help="where to write it; printed if not given")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.way is not None:
        run(given.way, given.params, given.batch, given.length)
        return
    text = json.dumps(measured(given), indent=1) + "\n"
    if given.json is None:
        print(text, end="")
    else:
        with replacing(given.json) as temporary:
            temporary.write_text(text)


if __name__ == "__main__":
    main()
