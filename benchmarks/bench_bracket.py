"""The passes of a top-k whose keys are never all at hand: histograms of keys, and splits by a bracket.

Floor: one read of the keys, 4 bytes each for f32; a split also writes its indices.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import torch
from torch import Tensor

import fgunlearn as fg
from fgunlearn.benchmarks import floors
from fgunlearn.benchmarks.inputs import distributions, normal, resnet18
from fgunlearn.benchmarks.timing import Report, add_copy

ABOVE, BETWEEN = 0.007, 0.003
"""The shares of the keys that a split gives: 1% together."""

_ALL = (0, 20, 2_048)  # first key, shift, bins: every key, by its 11 highest bits


def magnitude(share: float) -> float:
    """What a standard normal number exceeds in magnitude with this probability."""
    return NormalDist().inv_cdf(1.0 - share / 2.0)


def key(value: float) -> int:
    """The 31-bit key of a number."""
    return int(torch.tensor(value).view(torch.int32))


def run(report: Report) -> None:
    """Gaussian keys in one tensor and in ResNet-18's, then few distinct ones; a quick run is a hundredth of it."""
    n = 10**6 if report.quick else 10**8
    add_copy(report, n)
    _histograms(report, normal(n, report.device, seed=0))
    _split(report, normal(n, report.device, seed=0))
    _histograms(report, normal(n, report.device, seed=0, dtype=torch.bfloat16), peers=False)
    _resnet18(report)
    _few_values(report, n)
    large = 10 * n
    if report.on_cuda and report.fits(f"bracket, {large:.0e}", 6.0 * large):
        x = normal(large, report.device, seed=0)
        _histograms(report, x)
        _split(report, x)


def _name(x: Tensor) -> str:
    return f"{x.numel():.0e} {'bf16' if x.dtype == torch.bfloat16 else 'f32'}"


def _histograms(report: Report, x: Tensor, peers: bool = True) -> None:
    tail = key(magnitude(ABOVE + BETWEEN))
    for what, (low, shift, bins) in (
        ("all keys, 2,048 bins", _ALL),
        ("all keys, 65,536 bins", (0, 15, 65_536)),
        ("the last 1%, 2,048 bins", (tail, 12, 2_048)),
        ("the last 1%, 8,192 bins", (tail, 10, 8_192)),
        ("the last 1%, 65,536 bins", (tail, 7, 65_536)),
    ):
        contenders: dict[str, Callable[[], object]] = {
            "fgunlearn": lambda low=low, shift=shift, bins=bins: fg.ops.bracket_histogram([x], low, shift, bins, False),
            "x.sum()": lambda: x.sum(),
        }
        if peers and bins == 2_048:
            contenders["torch.histc"] = lambda: torch.histc(x, 2_048)
        report.compare(
            f"histogram, {_name(x)}, {what}",
            contenders,
            repeats=9,
            moved_bytes=floors.one_read(x.numel(), x.element_size()),
            slow=("torch.histc",),
            slow_repeats=2,
        )


def _split(report: Report, x: Tensor) -> None:
    n = x.numel()
    low, high = magnitude(ABOVE + BETWEEN), magnitude(ABOVE)
    written = int((ABOVE + BETWEEN) * n)

    def torch_way() -> object:
        y = x.abs()
        return (y >= high).nonzero(), ((y >= low) & (y < high)).nonzero()

    report.compare(
        f"split, {_name(x)}, {ABOVE:.1%} above and {BETWEEN:.1%} between",
        {
            "fgunlearn": lambda: fg.ops.bracket_split([x], key(low), key(high), False),
            "x.sum()": lambda: x.sum(),
            "torch, masks and nonzero": torch_way,
        },
        repeats=9,
        moved_bytes=floors.top_k(n, written, x.element_size()),
        slow=("torch, masks and nonzero",),
        slow_repeats=3,
    )


def _resnet18(report: Report) -> None:
    keys = resnet18(report.device)
    n = sum(t.numel() for t in keys)
    low, high = key(magnitude(ABOVE + BETWEEN)), key(magnitude(ABOVE))
    each = f"ResNet-18's {len(keys)} tensors"
    report.compare(
        f"histogram, {each}, all keys, 2,048 bins",
        {"fgunlearn": lambda: fg.ops.bracket_histogram(keys, *_ALL, False)},
        repeats=15,
        moved_bytes=floors.one_read(n),
    )
    report.compare(
        f"split, {each}, {ABOVE:.1%} above and {BETWEEN:.1%} between",
        {"fgunlearn": lambda: fg.ops.bracket_split(keys, low, high, False)},
        repeats=15,
        moved_bytes=floors.top_k(n, int((ABOVE + BETWEEN) * n)),
    )


def _few_values(report: Report, n: int) -> None:
    """Where neighbouring keys meet in one bin."""
    for name, x in distributions(n, report.device).items():
        report.compare(
            f"histogram, {name}, {n:.0e} f32, all keys, 2,048 bins",
            {"fgunlearn": lambda x=x: fg.ops.bracket_histogram([x], *_ALL, False)},
            repeats=7,
            moved_bytes=floors.one_read(n),
        )
