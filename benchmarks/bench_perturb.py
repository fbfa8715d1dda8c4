"""Perturbing, reading, writing and adding to k of n coordinates against torch's indexing; then SPD-GAN's shift.

Floor: k indices read, k coordinates read and written, each in a cache line of its own at k / n = 1%; noise relative to
the tensor's rms reads all n once.
"""

from __future__ import annotations

import torch
from torch import Tensor

import fgunlearn as fg
from fgunlearn.benchmarks import bench_spd_perturb, floors
from fgunlearn.benchmarks.inputs import normal, random_indices
from fgunlearn.benchmarks.timing import Report, add_copy
from fgunlearn.ops.perturb import GAUSSIAN_STREAM


def run(report: Report) -> None:
    """All of them at k of 0.1%, 1% and 10% of n; a quick run shrinks the size a hundredfold."""
    n = 10**6 if report.quick else 10**8
    add_copy(report, n)
    x = normal(n, report.device, seed=0)
    for share in (0.001, 0.01, 0.1):
        index = random_indices(n, int(share * n), report.device)
        size = f"n = {n:.0e}, k = {share:.1%}"
        _perturb(report, x, index, size)
        _move(report, x, index, size)
    report.compare(
        f"rms, {n:.0e} f32",
        {"fgunlearn": lambda: fg.ops.rms([x]), "torch norm": lambda: x.norm()},
        repeats=9,
        moved_bytes=floors.one_read(n),
    )
    bench_spd_perturb.run(report)


def _floor(report: Report, moved_bytes: float) -> float | None:
    # Sectors are a GPU's; on the CPU a line of 64 bytes may be shared by neighbours, fetched ahead, or still cached.
    return moved_bytes if report.on_cuda else None


def _perturb(report: Report, x: Tensor, index: Tensor, size: str) -> None:
    n, k = x.numel(), index.numel()
    at = index.long()

    def ours(draw: str, keep: float) -> None:
        fg.ops.sparse_perturb_([x], [index], [draw], [keep], [0.0], [0.1], 0, GAUSSIAN_STREAM, [0])

    def eager() -> None:
        x[at] += 0.1 * torch.randn(k, device=x.device)

    def dense() -> None:
        mask = torch.zeros(n, device=x.device).index_fill_(0, at, 1.0)
        x.add_(torch.randn(n, device=x.device).mul_(mask), alpha=0.1)

    report.compare(
        f"Gaussian noise, {size}",
        {
            "fgunlearn": lambda: ours("normal", 1.0),
            "torch: x[i] += std * randn(k)": eager,
            "torch, dense mask": dense,
        },
        repeats=5,
        slow=("torch, dense mask",),
        slow_repeats=2,
        moved_bytes=_floor(report, floors.perturb(n, k)),
    )
    report.compare(
        f"zeroing, {size}",
        {"fgunlearn": lambda: ours("none", 0.0), "torch: x[i] = 0": lambda: x.index_fill_(0, at, 0.0)},
        repeats=5,
        moved_bytes=_floor(report, floors.overwrite(n, k)),
    )


def _move(report: Report, x: Tensor, index: Tensor, size: str) -> None:
    n, k = x.numel(), index.numel()
    at = index.long()  # what torch's indexing takes; converted outside the timed region
    values = normal(k, report.device, seed=1)
    moved = _floor(report, floors.gather(n, k))
    report.compare(
        f"gather, {size}",
        {
            "fgunlearn": lambda: fg.ops.sparse_gather([x], [index]),
            "torch index_select": lambda: torch.index_select(x, 0, at),
        },
        repeats=5,
        moved_bytes=moved,
    )
    report.compare(
        f"scatter, {size}",
        {
            "fgunlearn": lambda: fg.ops.sparse_scatter_([x], [index], [values]),
            "torch index_put_": lambda: x.index_put_((at,), values),
            "torch index_copy_": lambda: x.index_copy_(0, at, values),
        },
        repeats=5,
        moved_bytes=moved,
    )
    report.compare(
        f"sparse_add, {size}",
        {
            "fgunlearn": lambda: fg.ops.sparse_add(x, index, values),
            "torch index_add": lambda: torch.index_add(x, 0, at, values),
            "torch clone().index_add_": lambda: x.clone().index_add_(0, at, values),
        },
        repeats=5,
        moved_bytes=floors.sparse_add(n, k),
    )
