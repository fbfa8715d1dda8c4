"""Optimizer steps on k of n coordinates against masked dense steps, and what a repair step takes in memory.

Floor of a sparse step: k indices, k coordinates of gradient and parameter, at k / n = 1% each in a cache line of its
own, and the states, k values each. A masked dense step reads and writes n of everything, the mask included.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fgunlearn as fg
from fgunlearn.benchmarks import floors
from fgunlearn.benchmarks.inputs import normal, resnet18_shapes
from fgunlearn.benchmarks.timing import Report, Row, add_copy

MASKED = "grad.mul_(mask) + fused torch"
RESTORED = "the same + p*m + p0*(1-m)"
FOREACH = "grad.mul_(mask) + foreach torch"

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD with momentum": (torch.optim.SGD, {"lr": 1e-4, "momentum": 0.9, "weight_decay": 1e-4}),
    "AdamW": (torch.optim.AdamW, {"lr": 1e-4, "weight_decay": 1e-2}),
}

# Per selected coordinate one f32 of each.
STATES = {"SGD with momentum": ("momentum",), "AdamW": ("first moment", "second moment")}


def run(report: Report) -> None:
    """k of 0.1%, 1% and 10%; a quick run shrinks the large sizes a hundredfold."""
    n = 10**6 if report.quick else 10**8
    add_copy(report, n)
    for kind in KINDS:
        _against_dense(report, kind, f"n = {n:.0e}", [(n,)], repeats=5)
        _against_dense(report, kind, "n = 1.12e+07 (ResNet-18)", resnet18_shapes(), repeats=5 if report.quick else 15)
    if not report.on_cuda:
        _repair_step(report, report.quick)


def _against_dense(report: Report, kind: str, size: str, shapes: list[tuple[int, ...]], *, repeats: int) -> None:
    optimizer, options = KINDS[kind]
    params = [torch.nn.Parameter(normal(shape, report.device, seed=t)) for t, shape in enumerate(shapes)]
    n = sum(p.numel() for p in params)
    fused = optimizer(params, fused=True, **options)
    foreach = optimizer(params, foreach=True, **options)
    for share in (0.001, 0.01, 0.1):
        for t, p in enumerate(params):
            p.grad = normal(tuple(p.shape), report.device, seed=1000 + t)
        selection = fg.randomk([p.detach() for p in params], ratio=share)
        sparse = fg.SparseOptimizer(optimizer(params, **options), selection)
        masks = [mask.float() for mask in selection.masks()]
        rest = [p.detach() * (1 - mask) for p, mask in zip(params, masks, strict=True)]

        def masked(masks: list[Tensor] = masks) -> None:
            for p, mask in zip(params, masks, strict=True):
                assert p.grad is not None
                p.grad.mul_(mask)
            fused.step()

        def restored(masks: list[Tensor] = masks, rest: list[Tensor] = rest) -> None:
            masked(masks)
            for p, mask, kept in zip(params, masks, rest, strict=True):
                p.detach().mul_(mask).add_(kept)

        def by_foreach(masks: list[Tensor] = masks) -> None:
            torch._foreach_mul_([p.grad for p in params], masks)
            foreach.step()

        what = f"{kind}, {size}, k = {share:.1%}"
        ms = report.compare(
            what,
            {"fgunlearn": sparse.step, MASKED: masked, RESTORED: restored, FOREACH: by_foreach},
            repeats=repeats,
            slow=(RESTORED, FOREACH),
            slow_repeats=3,
            moved_bytes=floors.sparse_step(n, selection.k, states=len(STATES[kind])) if report.on_cuda else None,
        )
        speedup = ms[MASKED] / ms["fgunlearn"]
        state = sum(t.numel() * t.element_size() for s in sparse.state.values() for t in s.values())
        dense = sum(t.numel() * t.element_size() for s in fused.state.values() for t in s.values())
        report.row(what, "fgunlearn").note = f"{speedup:.1f} x faster; {state:,} bytes of state, not {dense:,}"
        if share == 0.01 and len(shapes) == 1:
            report.target(f"{kind}: faster than {MASKED}, {size}, k = 1%", speedup, 20 if report.on_cuda else 8)
            each = 4 * len(STATES[kind])
            report.target(f"{kind}: bytes of state over {each} k", state / (each * selection.k), 1.001, at_least=False)
        assert n >= selection.k


def _repair_step(report: Report, quick: bool) -> None:
    if not Path("/proc/self/clear_refs").exists():
        return  # only Linux tells a peak
    for kind, who in (
        ("dense", "fused torch AdamW"),
        ("selected", "fgunlearn"),
        ("freed", "fgunlearn, free_grads"),
    ):
        found = _in_a_process(kind, report.threads, quick)
        what = f"repair step, transformer of {found['parameters'] / 1e6:.0f}M, k = 1%"
        note = f"peak memory {found['peak'] / 2**20:,.0f} MiB"
        report.rows.append(Row(what, who, found["milliseconds"], found["spread"], int(found["repeats"]), note=note))
    found = _in_a_process("frozen", report.threads, quick)
    what = "forward and backward, selection in the last 3 layers"
    share = 1 - found["frozen"] / found["unfrozen"]
    note = f"saves {share:.0%}; {found['elements']:.0%} of the elements are frozen"
    report.rows.append(Row(what, "fgunlearn, freeze_untouched", found["frozen"], 0.0, 5, note=note))
    report.rows.append(Row(what, "fgunlearn", found["unfrozen"], 0.0, 5))


def _in_a_process(kind: str, threads: int, quick: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "fgunlearn.benchmarks.repair_step", kind, str(threads)]
    done = subprocess.run(command + ["--quick"] * quick, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
