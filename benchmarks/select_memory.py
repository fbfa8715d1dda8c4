"""Selections in a process of their own: their time, and their peak memory beside the model.

``python -m fgunlearn.benchmarks.select_memory dense streaming compact [--params N] [--batches B] ...`` prints
one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fgunlearn as fg
from fgunlearn.benchmarks.repair_step import reset_peak, resident

SAMPLES = 8  # in a batch: what the layers put out is small beside the parameters
SHARE = 0.01


def in_a_process(*ways: str, **options: object) -> dict[str, dict[str, Any]]:
    """What :func:`main` finds in a new process, by "dense", "streaming" and "compact".

    glibc keeps blocks below a threshold that grows to 32 MiB when they are freed, in the hope of using them again; here
    it gives them back, so that what is measured is what was asked for.
    """
    command = [sys.executable, "-m", "fgunlearn.benchmarks.select_memory", *ways]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def layered(params: float, device: str) -> nn.Sequential:
    """Linear layers of one size, about ``params`` parameters in all and each a small part of them."""
    width = 1024 if params >= 1e7 else 128
    layers: list[nn.Module] = []
    for _ in range(max(1, round(params / (width * width + width)))):
        layers += [nn.Linear(width, width, device=device), nn.ReLU()]
    return nn.Sequential(*layers)


def mean_square(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().mean()


def peak_of(work: Callable[[], object], device: str) -> int:
    """The most bytes that ``work`` had beside what there was before."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    reset_peak()
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def main(
    ways: list[str], params: float, batches: int, parts: int, kind: str, device: str, repeats: int
) -> dict[str, dict[str, Any]]:
    warm = nn.Linear(2, 2, device=device)  # what is imported where it is first needed is no part of the selection
    for way in ways:
        fg.select(warm, [torch.ones(1, 2, device=device)], mean_square, fg.TopK(1.0), memory=way)
    torch.manual_seed(0)
    model = layered(params, device)
    n = sum(p.numel() for p in model.parameters())
    loader = [torch.randn(SAMPLES, model[0].in_features, device=device) for _ in range(batches)]
    last = model[-2:]  # what a first backward pass sets up is no part of the selection
    torch.autograd.grad(mean_square(last, loader[0]), list(last.parameters()))
    found = {}
    for way in ways:
        how: dict[str, Any] = {"memory": way}
        if way == "streaming":
            how["memory_budget"] = max(1, 4 * n // parts)

        def select(how: dict[str, Any] = how) -> None:
            fg.select(model, loader, mean_square, fg.TopK(SHARE, score=kind), **how)
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize()

        peak = peak_of(select, device)
        taken = []
        for _ in range(repeats):
            start = time.perf_counter()
            select()
            taken.append(1e3 * (time.perf_counter() - start))
        found[way] = {"parameters": n, "peak": peak, "milliseconds": taken}
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ways", nargs="+", choices=["dense", "streaming", "compact"])
    parser.add_argument("--params", type=float, default=1e8, help="of the model, about")
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--parts", type=int, default=4, help="memory_budget is 4 n bytes over this")
    parser.add_argument("--kind", default="grad")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = vars(parser.parse_args())
    torch.set_num_threads(given.pop("threads"))
    print(json.dumps(main(**given)))
