"""Timing callables side by side, and the report: medians, spreads, bytes per second, targets."""

from __future__ import annotations

import datetime
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fgunlearn import machine
from fgunlearn.files import replacing


@dataclass
class Row:
    """One figure.

    Attributes:
        what: the work, with its sizes.
        who: "fgunlearn" or the peer.
        milliseconds: median; ``spread`` is the interquartile range of the same.
        gigabytes_per_second: bytes that the work has to move at least, over the median.
        note: ratios, targets and whether they are met, in words.
    """

    what: str
    who: str
    milliseconds: float
    spread: float
    repeats: int
    gigabytes_per_second: float | None = None
    note: str = ""


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


@dataclass
class Report:
    name: str
    threads: int
    rows: list[Row] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)

    def print(self, console: Console) -> None:
        if not console.is_terminal:
            console = Console(width=140)
        table = Table(title=f"{self.name}, {self.threads} threads, {self.machine['processor']}", pad_edge=False)
        for title in ("what", "who", "ms", "IQR", "GB/s", "note"):
            table.add_column(title, justify="left" if title in ("what", "who", "note") else "right")
        for row in self.rows:
            rate = "" if row.gigabytes_per_second is None else f"{row.gigabytes_per_second:.1f}"
            table.add_row(
                escape(row.what),
                escape(row.who),
                f"{row.milliseconds:.3f}",
                f"{row.spread:.3f}",
                rate,
                escape(row.note),
            )
        console.print(table)
        for target in self.targets:
            console.print(str(target), highlight=False)

    def write(self, path: Path) -> None:
        held = asdict(self)
        for entry, target in zip(held["targets"], self.targets, strict=True):
            entry["met"] = target.met
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
    ) -> dict[str, float]:
        """Times the callables in turns, so that all meet the same machine; medians in milliseconds, by name."""
        times: dict[str, list[float]] = {name: [] for name in callables}
        for turn in range(repeats + 1):
            for name, call in callables.items():
                if name in slow and turn > (slow_repeats or repeats):
                    continue
                start = time.perf_counter()
                call()
                elapsed = 1e3 * (time.perf_counter() - start)
                if turn > 0:  # the first turn warms up
                    times[name].append(elapsed)
        medians = {}
        for name, taken in times.items():
            medians[name] = statistics.median(taken)
            quarters = statistics.quantiles(taken, n=4) if len(taken) > 1 else [taken[0]] * 3
            rate = moved_bytes / medians[name] / 1e6 if moved_bytes is not None and name == "fgunlearn" else None
            self.rows.append(Row(what, name, medians[name], quarters[2] - quarters[0], len(taken), rate))
        return medians

    def target(self, what: str, value: float, limit: float, *, at_least: bool = True) -> None:
        self.targets.append(Target(what, value, limit, at_least))


def start(name: str, threads: int | None) -> Report:
    """An empty report; sets the number of threads, and measures a copy for scale."""
    if threads is not None:
        torch.set_num_threads(threads)
    report = Report(name, torch.get_num_threads(), machine=_machine())
    return report


def _machine() -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path.cwd(), check=False
    ).stdout.strip()
    return {**machine.describe(), "commit": commit or None, "date": datetime.date.today().isoformat()}


def add_copy(report: Report, n: int) -> float:
    """Times a copy of n float32; its bytes per second are what memory gives, read and write together."""
    source, target = torch.ones(n), torch.empty(n)
    report.compare(f"copy, {n:.3g} f32", {"fgunlearn": lambda: target.copy_(source)}, repeats=7, moved_bytes=8.0 * n)
    report.rows[-1].who = "torch copy_"
    return report.rows[-1].gigabytes_per_second or float("nan")
