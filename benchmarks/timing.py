"""Timing callables side by side, and the report: medians, spreads, bytes per second, floors, targets."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fgunlearn import machine
from fgunlearn.benchmarks.clocks import CpuClock, CudaClock
from fgunlearn.benchmarks.inputs import normal
from fgunlearn.files import replacing


@dataclass
class Row:
    """One figure.

    Attributes:
        what: the work, with its sizes.
        who: the peer, or what begins with "fgunlearn".
        milliseconds: median; ``spread`` is the interquartile range of the same.
        gigabytes_per_second: bytes that the work has to move at least, over the median.
        note: ratios, targets and whether they are met, in words.
        moved_bytes: those bytes. This and the following for ours only, and where they are known.
        copy_share: gigabytes_per_second over those of the copy measured in the same run.
        floor_ms: the time that those bytes take at the copy's bandwidth.
        over_floor: milliseconds over floor_ms.
    """

    what: str
    who: str
    milliseconds: float
    spread: float
    repeats: int
    gigabytes_per_second: float | None = None
    note: str = ""
    moved_bytes: float | None = None
    copy_share: float | None = None
    floor_ms: float | None = None
    over_floor: float | None = None


@dataclass
class Target:
    """A figure to reach: ``value`` is what was measured."""

    what: str
    value: float
    limit: float
    at_least: bool

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{self.what}: {self.value:.3g} ({sign} {self.limit:g}: {'met' if self.met else 'MISSED'})"


class Medians(dict[str, float]):
    """Milliseconds by name; NaN for what could not be timed."""

    def __missing__(self, name: str) -> float:
        return math.nan


@dataclass
class Report:
    """What is measured, as it comes in.

    Attributes:
        device: "cpu", or "cuda" or "cuda:1".
        copy_gigabytes_per_second: of a copy in this run, bytes read and written; see :func:`add_copy`.
        left_out: what was not measured, and why.
        failures: what of ours failed; a report with any is no good one.
        quick: small sizes, few repeats.
        traced: under a profiler: each callable runs once after its warm-up, under its name. The times are no figures.
        json: rewritten after every comparison, so that a run that is cut off leaves what it had.
        cub_include: where the headers of CUB >= 3.2 are, if not where they are looked for.
        params: parameters of the model, where one is measured.
    """

    name: str
    threads: int
    rows: list[Row] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    copy_gigabytes_per_second: float | None = None
    left_out: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    quick: bool = False
    traced: bool = False
    json: Path | None = None
    cub_include: Path | None = None
    params: float | None = None
    clock: CpuClock | CudaClock = field(default_factory=CpuClock)

    @property
    def on_cuda(self) -> bool:
        return torch.device(self.device).type == "cuda"

    def print(self, console: Console) -> None:
        if not console.is_terminal:
            console = Console(width=170)
        where = self.machine.get("gpu") or f"{self.threads} threads, {self.machine['processor']}"
        titles = ("what", "who", "ms", "IQR", "GB/s", "of copy", "floor ms", "x floor", "note")
        table = Table(title=f"{self.name}, {where}", pad_edge=False)
        for title in titles:
            table.add_column(title, justify="left" if title in ("what", "who", "note") else "right")

        def shown(value: float | None, format: str) -> str:
            return "" if value is None else f"{value:{format}}"

        for row in self.rows:
            table.add_row(
                escape(row.what),
                escape(row.who),
                f"{row.milliseconds:.3f}",
                f"{row.spread:.3f}",
                shown(row.gigabytes_per_second, ".1f"),
                shown(row.copy_share, ".0%"),
                shown(row.floor_ms, ".3f"),
                shown(row.over_floor, ".2f"),
                escape(row.note),
            )
        console.print(table)
        for line in (*map(str, self.targets), *(f"left out: {why}" for why in self.left_out)):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        for line in self.failures:
            console.print(f"FAILED: {line}", highlight=False, markup=False, soft_wrap=True)

    def write(self, path: Path) -> None:
        held = {
            "name": self.name,
            "threads": self.threads,
            "rows": [asdict(row) for row in self.rows],
            "targets": [{**asdict(target), "met": target.met} for target in self.targets],
            "machine": self.machine,
            "device": self.device,
            "copy_gigabytes_per_second": self.copy_gigabytes_per_second,
            "left_out": self.left_out,
            "failures": self.failures,
            "quick": self.quick,
        }
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(held, indent=1) + "\n")

    def row(self, what: str, who: str) -> Row:
        return next(r for r in self.rows if r.what == what and r.who == who)

    def compare(
        self,
        what: str,
        callables: dict[str, Callable[[], object]],
        *,
        repeats: int,
        moved_bytes: float | None = None,
        slow_repeats: int | None = None,
        slow: tuple[str, ...] = (),
    ) -> Medians:
        """Times the callables in turns, so that all meet the same machine; medians in milliseconds, by name.

        On CUDA the number of repeats follows from the time one takes. A peer that fails is left out, and the report
        says why; one of ours that fails is left out too, and fails the report unless memory was short.
        """
        self.clock.settle()
        planned = {}
        for name, call in callables.items():
            try:
                estimate = self.clock.warm_up(call)
            except Exception as error:
                self._failed(what, name, error)
                continue
            asked = min(repeats, slow_repeats or repeats) if name in slow else repeats
            planned[name] = 1 if self.traced else self.clock.repeats(asked, estimate)
        times: dict[str, list[float]] = {name: [] for name in planned}
        for turn in range(max(planned.values(), default=0)):
            for name, count in planned.items():
                if turn < count:
                    with self._label(f"{what}: {name}"):
                        times[name].append(self.clock.milliseconds(callables[name]))
        medians = Medians()
        for name, taken in times.items():
            medians[name] = statistics.median(taken)
            quarters = statistics.quantiles(taken, n=4) if len(taken) > 1 else [taken[0]] * 3
            row = Row(what, name, medians[name], quarters[2] - quarters[0], len(taken))
            if moved_bytes is not None and name.startswith("fgunlearn"):
                self._add_floor(row, moved_bytes)
            self.rows.append(row)
        if self.json is not None:
            self.write(self.json)
        return medians

    def _label(self, label: str) -> contextlib.AbstractContextManager[object]:
        return torch.profiler.record_function(label) if self.traced else contextlib.nullcontext()

    def _add_floor(self, row: Row, moved_bytes: float) -> None:
        row.moved_bytes = moved_bytes
        row.gigabytes_per_second = moved_bytes / row.milliseconds / 1e6
        if self.copy_gigabytes_per_second:
            row.copy_share = row.gigabytes_per_second / self.copy_gigabytes_per_second
            row.floor_ms = moved_bytes / self.copy_gigabytes_per_second / 1e6
            row.over_floor = row.milliseconds / row.floor_ms

    def _failed(self, what: str, name: str, error: Exception) -> None:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        line = f"{what}: {name}: {reason}"
        if name.startswith("fgunlearn") and not isinstance(error, torch.OutOfMemoryError):
            self.failures.append(line)
        else:
            self.left_out.append(line)

    def fits(self, what: str, wanted: float) -> bool:
        """Whether there is memory for this many bytes; says so in the report if not."""
        if self.clock.fits(wanted):
            return True
        self.left_out.append(f"{what}: needs {wanted / 2**30:.0f} GiB of device memory, and there is less free")
        return False

    def target(self, what: str, value: float, limit: float, *, at_least: bool = True) -> None:
        """``value`` held to ``limit``; left out where what it takes was not measured."""
        if math.isnan(value):
            self.left_out.append(f"target, {what}: what it compares was not measured")
        else:
            self.targets.append(Target(what, value, limit, at_least))


def start(
    name: str,
    threads: int | None = None,
    *,
    device: str = "cpu",
    quick: bool = False,
    traced: bool = False,
    json: Path | None = None,
    commit: str | None = None,
    cub_include: Path | None = None,
    params: float | None = None,
) -> Report:
    """An empty report; sets the number of threads and the current device."""
    if threads is not None:
        torch.set_num_threads(threads)
    report = Report(
        name,
        torch.get_num_threads(),
        machine=_machine(device, commit),
        device=device,
        quick=quick,
        traced=traced,
        json=json,
        cub_include=cub_include,
        params=params,
    )
    if report.on_cuda:
        where = torch.device(device)
        if where.index is not None:
            torch.cuda.set_device(where)
        limits = {"budget_ms": 30.0, "least": 3, "most": 10} if quick else {"budget_ms": 300.0, "least": 7, "most": 100}
        report.clock = CudaClock(where, **limits)
    return report


def _machine(device: str, commit: str | None) -> dict[str, Any]:
    if commit is None:
        asked = ["git", "rev-parse", "--short", "HEAD"]
        with contextlib.suppress(OSError):  # no git here
            commit = subprocess.run(asked, capture_output=True, text=True, cwd=Path.cwd(), check=False).stdout.strip()
    described = machine.describe(torch.device(device))
    return {**described, "commit": commit or None, "date": datetime.date.today().isoformat()}


def add_copy(report: Report, n: int) -> float:
    """Times a copy of n float32; its bytes per second are what memory gives, read and write together.

    On CUDA the copy is never small: its bytes have to come from memory, and go there.
    """
    if report.on_cuda:
        n = max(n, 1 << 28) if report.clock.fits(8 << 28) else n
    source = normal(n, report.device, seed=0)
    target = torch.empty(n, device=report.device)
    what, who = f"copy, {n:.3g} f32", "torch copy_"
    taken = report.compare(what, {who: lambda: target.copy_(source)}, repeats=7)
    row = report.row(what, who)
    row.moved_bytes = 8.0 * n
    row.gigabytes_per_second = report.copy_gigabytes_per_second = 8.0 * n / taken[who] / 1e6
    return row.gigabytes_per_second
