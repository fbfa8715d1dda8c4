"""A step of SGD with momentum on k of n coordinates against a masked dense step."""

from __future__ import annotations

import torch

import fgunlearn as fg
from fgunlearn.benchmarks import floors
from fgunlearn.benchmarks.inputs import normal
from fgunlearn.benchmarks.timing import Report, add_copy


def run(report: Report) -> None:
    """k of 0.1%, 1% and 10% of n; a quick run shrinks the size a hundredfold."""
    n = 10**6 if report.quick else 10**8
    add_copy(report, n)
    p = torch.nn.Parameter(normal(n, report.device, seed=0))
    p.grad = normal(n, report.device, seed=1)
    settings = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 1e-4}
    dense = torch.optim.SGD([p], fused=True, **settings)
    for share in (0.001, 0.01, 0.1):
        selection = fg.randomk([p.detach()], ratio=share).to(report.device)
        sparse = fg.SparseOptimizer(torch.optim.SGD([p], **settings), selection)
        mask = selection.masks()[0].float()

        def masked_step(mask: torch.Tensor = mask) -> None:
            assert p.grad is not None
            p.grad.mul_(mask)
            dense.step()

        ms = report.compare(
            f"SGD with momentum, n = {n:.0e}, k = {share:.1%}",
            {"fgunlearn": sparse.step, "grad.mul_(mask) + fused torch SGD": masked_step},
            repeats=7,
            moved_bytes=floors.sparse_sgd(n, int(share * n)) if report.on_cuda else None,
        )
        state = sum(t.numel() * t.element_size() for s in sparse.state.values() for t in s.values())
        speedup = ms["grad.mul_(mask) + fused torch SGD"] / ms["fgunlearn"]
        report.row(
            f"SGD with momentum, n = {n:.0e}, k = {share:.1%}", "fgunlearn"
        ).note = f"{speedup:.1f} x faster; {state:,} bytes of state, not {4 * n:,}"
