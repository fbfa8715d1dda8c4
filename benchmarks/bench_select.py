"""Top-k and Random-k selection against what one would use instead.

Floor of top-k: one read of the keys, 4 bytes each for f32. Random-k reads nothing.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import fgunlearn as fg
from fgunlearn.benchmarks.bench_select_cuda import compare_all, rank_mask
from fgunlearn.benchmarks.inputs import adversarial, distributions, normal, resnet18
from fgunlearn.benchmarks.timing import Report, add_copy


def run(report: Report) -> None:
    """All comparisons; a quick run shrinks the sizes a hundredfold and keeps the code paths."""
    n = 10**6 if report.quick else 10**8
    add_copy(report, n)
    if report.on_cuda:
        compare_all(report)
        return
    _one_tensor(report, n)
    _resnet18(report)
    _random(report, n)
    _adversarial(report, n)
    _memory(report, n)


def _one_tensor(report: Report, n: int) -> None:
    x = normal(n, "cpu", seed=0)
    for share in (0.001, 0.01, 0.1):
        k = int(share * n)
        what = f"top-k, {n:.0e} f32, k = {share:.1%}"
        peers: dict[str, Callable[[], object]] = {
            "fgunlearn": lambda k=k: fg.ops.topk_select([x], k),
            "x.sum()": lambda: x.sum(),
        }
        if share == 0.01:
            peers["torch.topk"] = lambda k=k: torch.topk(x.abs(), k, sorted=False)
            peers["torch.kthvalue + mask"] = lambda k=k: (
                x.abs() >= torch.kthvalue(x.abs(), n - k + 1).values
            ).nonzero()
        slow = ("torch.topk", "torch.kthvalue + mask")
        ms = report.compare(what, peers, repeats=9, moved_bytes=4.0 * n, slow=slow, slow_repeats=2)
        if share == 0.01 and not report.quick:
            report.target("time over x.sum()", ms["fgunlearn"] / ms["x.sum()"], 3.0, at_least=False)
            report.target("faster than torch.topk, 1e8", ms["torch.topk"] / ms["fgunlearn"], 60.0)


def _resnet18(report: Report) -> None:
    keys = resnet18("cpu")
    n = sum(t.numel() for t in keys)
    k = n // 100
    ms = report.compare(
        f"top-k, ResNet-18's {len(keys)} tensors, k = 1%",
        {
            "fgunlearn": lambda: fg.ops.topk_select(keys, k),
            "torch.topk of the concatenation": lambda: torch.topk(torch.cat([t.reshape(-1) for t in keys]).abs(), k),
            "argsort(argsort)": lambda: rank_mask(keys, k),
        },
        repeats=15,
        moved_bytes=4.0 * n,
        slow=("torch.topk of the concatenation", "argsort(argsort)"),
        slow_repeats=1 if report.quick else 3,
    )
    if not report.quick:
        ours = ms["fgunlearn"]
        report.target("faster than torch.topk, ResNet-18", ms["torch.topk of the concatenation"] / ours, 25.0)
        report.target("faster than argsort(argsort), ResNet-18", ms["argsort(argsort)"] / ours, 150.0)


def _random(report: Report, n: int) -> None:
    k = n // 100
    ms = report.compare(
        f"Random-k, n = {n:.0e}, k = 1%",
        {"fgunlearn": lambda: fg.ops.randomk_select([n], k, 0), "torch.randperm(n)[:k]": lambda: torch.randperm(n)[:k]},
        repeats=5,
        slow=("torch.randperm(n)[:k]",),
        slow_repeats=2,
    )
    if not report.quick:
        report.target("faster than randperm", ms["torch.randperm(n)[:k]"] / ms["fgunlearn"], 10.0)


def _adversarial(report: Report, n: int) -> None:
    k = n // 100
    x = normal(n, "cpu", seed=0)
    gaussian = report.compare(
        f"Gaussian, {n:.0e}, k = 1%", {"fgunlearn": lambda: fg.ops.topk_select([x], k)}, repeats=7
    )
    worst = 0.0
    for name, keys in {**distributions(n, "cpu"), **adversarial(n, "cpu")}.items():
        ms = report.compare(
            f"{name}, {n:.0e}, k = 1%",
            {"fgunlearn": lambda keys=keys: fg.ops.topk_select([keys], k)},
            repeats=5,
            moved_bytes=4.0 * n,
        )
        ratio = ms["fgunlearn"] / gaussian["fgunlearn"]
        report.rows[-1].note = f"{ratio:.2f} x Gaussian"
        worst = max(worst, ratio)
    if not report.quick:
        report.target("worst adversarial input over Gaussian", worst, 4.0, at_least=False)


_PEAK = """
import sys, torch
import fgunlearn as fg

def kib(what):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what))

n, k = int(sys.argv[1]), int(sys.argv[2])
x = torch.randn(n, generator=torch.Generator().manual_seed(0))
fg.ops.topk_select([x[:100_000]], 100)
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew from what is resident
before = kib("VmRSS")
indices, _ = fg.ops.topk_select([x], k)
print((kib("VmHWM") - before) * 1024 - indices[0].numel() * 4)
"""


def _memory(report: Report, n: int) -> None:
    """Peak resident memory that one selection adds to keys and indices, in a process of its own."""
    if not Path("/proc/self/clear_refs").exists():
        return  # only Linux tells
    for share in (0.01, 0.1):
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, str(n), str(int(share * n))], capture_output=True, text=True, check=True
        )
        extra = float(done.stdout) / (4.0 * n)
        report.target(f"peak extra memory over the keys' bytes, k = {share:.0%}", extra, 0.15, at_least=False)
