"""The three ways to hold a score while selecting: seconds, and peak memory beside the model.

Linear layers of one size, in a process of their own: a model whose largest gradient is a small part of it.
Streaming reads one batch twice, and several batches 2 G times, G = 4 parts of the parameters; ``--params`` says how
many there are.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from fgunlearn.benchmarks.select_memory import in_a_process
from fgunlearn.benchmarks.timing import Report, Row, add_copy

PARTS = 4
WAYS = ("dense", "streaming", "compact")


def run(report: Report) -> None:
    """One batch by "grad" and four by "abs_grad", dense, streaming and compact."""
    if not report.on_cuda and not Path("/proc/self/clear_refs").exists():
        report.left_out.append("all: only Linux tells a peak of memory")
        return
    params = report.params or (1e6 if report.quick else 1e8)
    add_copy(report, 10**6 if report.quick else 10**8)
    _compare(report, params, "grad", 1)
    _compare(report, params, "abs_grad", 4)


def _compare(report: Report, params: float, kind: str, batches: int) -> None:
    found = in_a_process(
        *WAYS,
        params=params,
        kind=kind,
        batches=batches,
        parts=PARTS,
        device=report.device,
        threads=report.threads,
        repeats=1 if report.quick else 5,
    )
    for way, of in found.items():
        times, n, peak = of["milliseconds"], of["parameters"], of["peak"]
        quarters = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
        what = f"{kind}, top 1% of {n:.3g}, {batches} {'batch' if batches == 1 else 'batches'}"
        note = f"peak memory beside the model {peak / 2**20:,.1f} MiB, {peak / n:.2f} bytes a parameter"
        spread = quarters[2] - quarters[0]
        report.rows.append(Row(what, f"fgunlearn, {way}", statistics.median(times), spread, len(times), note=note))
    if report.json is not None:
        report.write(report.json)
