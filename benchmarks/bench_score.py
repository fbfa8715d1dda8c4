"""Score accumulation against torch's in-place operations, and the pass that also selects against two passes.

Floor: gradient and score read, score written: 12 bytes per f32 element, what one fused in-place add moves.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import fgunlearn as fg
from fgunlearn.benchmarks import floors
from fgunlearn.benchmarks.inputs import normal
from fgunlearn.benchmarks.timing import Report, add_copy

WEIGHT = 0.5


def run(report: Report) -> None:
    """The three kinds, f32 and bf16 gradients; a quick run shrinks the sizes a hundredfold."""
    n = 10**6 if report.quick else 10**8
    add_copy(report, n)
    _accumulate(report, n)
    large = 10 * n
    if report.on_cuda and report.fits(f"score accumulation, {large:.0e}", 24.0 * large):
        _accumulate(report, large)


def _compiled(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return torch.compile(function, dynamic=False)


def _accumulate(report: Report, n: int) -> None:
    g = normal(n, report.device, seed=0)
    s = torch.zeros(n, device=report.device)
    eager: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "grad": lambda s, g: s.add_(g, alpha=WEIGHT),
        "abs_grad": lambda s, g: s.add_(g.abs(), alpha=WEIGHT),
        "fisher": lambda s, g: s.addcmul_(g, g, value=WEIGHT),
    }
    for kind, torch_way in eager.items():
        callables: dict[str, Callable[[], object]] = {
            "fgunlearn": lambda kind=kind: fg.ops.score_accumulate_([s], [g], kind, WEIGHT),
            "torch, same result": lambda way=torch_way: way(s, g),
            "s.add_(g)": lambda: s.add_(g),
        }
        if report.on_cuda:
            compiled = _compiled(torch_way)
            callables["torch.compile, same result"] = lambda compiled=compiled: compiled(s, g)
        ms = report.compare(f"{kind}, {n:.0e} f32", callables, repeats=9, moved_bytes=floors.accumulate(n))
        if report.quick:
            continue
        if not report.on_cuda:
            report.target(f"{kind}: time over s.add_(g)", ms["fgunlearn"] / ms["s.add_(g)"], 1.2, at_least=False)
        elif kind == "abs_grad" and report.copy_gigabytes_per_second:
            floor = floors.accumulate(n) / report.copy_gigabytes_per_second / 1e6
            report.target(f"abs_grad, {n:.0e}: time over its floor", ms["fgunlearn"] / floor, 1.15, at_least=False)
    _fused(report, s, g)
    half = g.bfloat16()
    callables = {
        "fgunlearn": lambda: fg.ops.score_accumulate_([s], [half], "abs_grad", WEIGHT),
        "torch, same result": lambda: s.add_(half.float().abs(), alpha=WEIGHT),
    }
    if report.on_cuda:
        way = _compiled(lambda s, g: s.add_(g.float().abs(), alpha=WEIGHT))
        callables["torch.compile, same result"] = lambda: way(s, half)
    report.compare(
        f"abs_grad, {n:.0e} bf16", callables, repeats=9, moved_bytes=floors.accumulate(n, half.element_size())
    )


def _fused(report: Report, s: Tensor, g: Tensor) -> None:
    n = s.numel()
    k = n // 100

    def two_passes() -> object:
        fg.ops.score_accumulate_([s], [g], "abs_grad", WEIGHT)
        return fg.ops.topk_select([s], k)

    def torch_way() -> object:
        return torch.topk(s.add_(g.abs(), alpha=WEIGHT), k, sorted=False)

    report.compare(
        f"abs_grad and its top 1%, {n:.0e} f32",
        {
            "fgunlearn, one op": lambda: torch.ops.fgunlearn.score_accumulate_topk_([s], [g], "abs_grad", WEIGHT, [k]),
            "fgunlearn, accumulate then select": two_passes,
            "torch, accumulate then topk": torch_way,
        },
        repeats=7,
        moved_bytes=floors.accumulate_top_k(n, k),
        slow=("torch, accumulate then topk",),
        slow_repeats=2,
    )
