"""Top-k and Random-k selection against what one would use instead.

Floor of top-k: one read of the keys, 4 bytes each for f32. Random-k reads nothing.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import fgunlearn as fg
from fgunlearn.benchmarks.timing import Report, add_copy, start

# ResNet-18 for 32x32 pictures (3x3 stem, 10 classes): 62 parameters, 11,173,962 elements.
_STAGES = ((64, 64), (64, 128), (128, 256), (256, 512))


def resnet18_shapes() -> list[tuple[int, ...]]:
    """The shapes of ResNet-18's parameters, in order."""
    shapes: list[tuple[int, ...]] = [(64, 3, 3, 3), (64,), (64,)]
    for before, width in _STAGES:
        for block in range(2):
            channels_in = before if block == 0 else width
            shapes += [(width, channels_in, 3, 3), (width,), (width,), (width, width, 3, 3), (width,), (width,)]
            if block == 0 and before != width:
                shapes += [(width, channels_in, 1, 1), (width,), (width,)]
    return [*shapes, (10, 512), (10,)]


def adversarial(n: int) -> dict[str, Tensor]:
    """Keys that a sampling or radix selection could stumble over."""
    base = torch.randn(n, generator=torch.Generator().manual_seed(0))
    outlier = base.clone()
    outlier[n // 2] = 1e30
    infinite = base.clone()
    infinite[:: max(1, n // 1000)] = math.inf
    border = torch.where(base.abs() > 2.5, base, torch.full_like(base, 2.5))
    levels = torch.randint(0, 17, (n,), generator=torch.Generator().manual_seed(1)).float()
    signed = torch.where(base > 0, 0.0, -0.0)
    return {
        "all equal": torch.ones(n),
        "all zero": torch.zeros(n),
        "sorted": base.sort().values,
        "one huge outlier": outlier,
        "denormals": base * 1e-40,
        "+-0 and a few": torch.where(base.abs() > 3.0, base, signed),
        "1000 infinities": infinite,
        "17 distinct values": levels,
        "tied at the border": border,
    }


def run(*, quick: bool = False, threads: int | None = None) -> Report:
    """All comparisons; ``quick`` shrinks the sizes a hundredfold and keeps the code paths."""
    report = start("select", threads)
    n = 10**6 if quick else 10**8
    add_copy(report, n)
    _one_tensor(report, n, quick)
    _resnet18(report, quick)
    _random(report, n, quick)
    _adversarial(report, n, quick)
    _memory(report, n)
    return report


def _one_tensor(report: Report, n: int, quick: bool) -> None:
    x = torch.randn(n, generator=torch.Generator().manual_seed(0))
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
        if share == 0.01 and not quick:
            report.target("time over x.sum()", ms["fgunlearn"] / ms["x.sum()"], 3.0, at_least=False)
            report.target("faster than torch.topk, 1e8", ms["torch.topk"] / ms["fgunlearn"], 60.0)


def _salun(keys: list[Tensor], k: int) -> Tensor:
    # SalUn's mask (Fan et al., ICLR 2024, as published with the paper): the rank of every element by two sorts.
    flat = -torch.cat([t.reshape(-1) for t in keys]).abs()
    ranks = torch.argsort(torch.argsort(flat))
    return ranks < k


def _resnet18(report: Report, quick: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    keys = [torch.randn(shape, generator=generator) for shape in resnet18_shapes()]
    n = sum(t.numel() for t in keys)
    k = n // 100
    ms = report.compare(
        f"top-k, ResNet-18's {len(keys)} tensors, k = 1%",
        {
            "fgunlearn": lambda: fg.ops.topk_select(keys, k),
            "torch.topk of the concatenation": lambda: torch.topk(torch.cat([t.reshape(-1) for t in keys]).abs(), k),
            "argsort(argsort)": lambda: _salun(keys, k),
        },
        repeats=15,
        moved_bytes=4.0 * n,
        slow=("torch.topk of the concatenation", "argsort(argsort)"),
        slow_repeats=1 if quick else 3,
    )
    if not quick:
        ours = ms["fgunlearn"]
        report.target("faster than torch.topk, ResNet-18", ms["torch.topk of the concatenation"] / ours, 25.0)
        report.target("faster than argsort(argsort), ResNet-18", ms["argsort(argsort)"] / ours, 150.0)


def _random(report: Report, n: int, quick: bool) -> None:
    k = n // 100
    ms = report.compare(
        f"Random-k, n = {n:.0e}, k = 1%",
        {"fgunlearn": lambda: fg.ops.randomk_select([n], k, 0), "torch.randperm(n)[:k]": lambda: torch.randperm(n)[:k]},
        repeats=5,
        slow=("torch.randperm(n)[:k]",),
        slow_repeats=2,
    )
    if not quick:
        report.target("faster than randperm", ms["torch.randperm(n)[:k]"] / ms["fgunlearn"], 10.0)


def _adversarial(report: Report, n: int, quick: bool) -> None:
    k = n // 100
    x = torch.randn(n, generator=torch.Generator().manual_seed(0))
    gaussian = report.compare(
        f"Gaussian, {n:.0e}, k = 1%", {"fgunlearn": lambda: fg.ops.topk_select([x], k)}, repeats=7
    )
    worst = 0.0
    for name, keys in adversarial(n).items():
        ms = report.compare(
            f"{name}, {n:.0e}, k = 1%",
            {"fgunlearn": lambda keys=keys: fg.ops.topk_select([keys], k)},
            repeats=5,
            moved_bytes=4.0 * n,
        )
        ratio = ms["fgunlearn"] / gaussian["fgunlearn"]
        report.rows[-1].note = f"{ratio:.2f} x Gaussian"
        worst = max(worst, ratio)
    if not quick:
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
