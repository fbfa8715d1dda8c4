"""Perturbing k of n coordinates against torch's indexing.

Floor: k indices read, k coordinates read and written, each in a cache line of its own at k / n = 1%; noise relative to
the tensor's rms reads all n once.
"""

from __future__ import annotations

import torch

import fgunlearn as fg
from fgunlearn.benchmarks.timing import Report, add_copy, start
from fgunlearn.ops.perturb import GAUSSIAN_STREAM


def run(*, quick: bool = False, threads: int | None = None) -> Report:
    """Gaussian noise, zeroing and rms; ``quick`` shrinks the size a hundredfold."""
    report = start("perturb", threads)
    n = 10**6 if quick else 10**8
    add_copy(report, n)
    x = torch.randn(n, generator=torch.Generator().manual_seed(0))
    for share in (0.001, 0.01, 0.1):
        index = fg.ops.randomk_select([n], int(share * n), 0)
        at = index[0].long()

        def noise(draw: str, keep: float, index: list[torch.Tensor] = index) -> None:
            fg.ops.sparse_perturb_([x], index, [draw], [keep], [0.0], [0.1], 0, GAUSSIAN_STREAM, [0])

        def eager(at: torch.Tensor = at) -> None:
            x[at] += 0.1 * torch.randn(len(at))

        report.compare(
            f"Gaussian noise, n = {n:.0e}, k = {share:.1%}",
            {
                "fgunlearn": lambda: noise("normal", 1.0),
                "torch: x[i] += std * randn(k)": eager,
                "torch, dense mask": lambda at=at: x.add_(torch.randn(n).mul_(_mask(n, at)), alpha=0.1),
            },
            repeats=5,
            slow=("torch, dense mask",),
            slow_repeats=2,
        )
        report.compare(
            f"zeroing, n = {n:.0e}, k = {share:.1%}",
            {"fgunlearn": lambda: noise("none", 0.0), "torch: x[i] = 0": lambda at=at: x.index_fill_(0, at, 0.0)},
            repeats=5,
        )
    report.compare(
        f"rms, {n:.0e} f32",
        {"fgunlearn": lambda: fg.ops.rms([x]), "torch norm": lambda: x.norm()},
        repeats=9,
        moved_bytes=4.0 * n,
    )
    return report


def _mask(n: int, at: torch.Tensor) -> torch.Tensor:
    return torch.zeros(n).index_fill_(0, at, 1.0)
