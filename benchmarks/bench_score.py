"""Score accumulation against torch's in-place operations.

Floor: gradient and score read, score written: 12 bytes per f32 element, what one fused in-place add moves.
"""

from __future__ import annotations

import torch

import fgunlearn as fg
from fgunlearn.benchmarks.timing import Report, add_copy, start


def run(*, quick: bool = False, threads: int | None = None) -> Report:
    """The three kinds, f32 and bf16 gradients; ``quick`` shrinks the size a hundredfold."""
    report = start("score", threads)
    n = 10**6 if quick else 10**8
    add_copy(report, n)
    g = torch.randn(n, generator=torch.Generator().manual_seed(0))
    s = torch.zeros(n)
    eager = {
        "grad": lambda: s.add_(g, alpha=0.5),
        "abs_grad": lambda: s.add_(g.abs(), alpha=0.5),
        "fisher": lambda: s.addcmul_(g, g, value=0.5),
    }
    for kind, torch_way in eager.items():
        ms = report.compare(
            f"{kind}, {n:.0e} f32",
            {
                "fgunlearn": lambda kind=kind: fg.ops.score_accumulate_([s], [g], kind, 0.5),
                "torch, same result": torch_way,
                "s.add_(g)": lambda: s.add_(g),
            },
            repeats=9,
            moved_bytes=12.0 * n,
        )
        if not quick:
            report.target(f"{kind}: time over s.add_(g)", ms["fgunlearn"] / ms["s.add_(g)"], 1.2, at_least=False)
    half = g.bfloat16()
    report.compare(
        f"abs_grad, {n:.0e} bf16",
        {
            "fgunlearn": lambda: fg.ops.score_accumulate_([s], [half], "abs_grad", 0.5),
            "torch, same result": lambda: s.add_(half.float().abs(), alpha=0.5),
        },
        repeats=9,
        moved_bytes=10.0 * n,
    )
    return report
