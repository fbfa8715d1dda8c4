"""What came out: seconds and memory by phase, a table and a JSON file."""

from __future__ import annotations

import contextlib
import json
import math
import resource
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fgunlearn.batches import wait_for
from measures import Figures

Phases = dict[str, dict[str, float]]

_COLUMNS = {
    "forget ppl": ("forget_perplexity", 1, ".2f"),
    "retain ppl": ("retain_perplexity", 1, ".2f"),
    "held-out ppl": ("held_out_perplexity", 1, ".2f"),
    "forget verbatim %": ("forget_verbatim_tokens", 100, ".1f"),
    "documents %": ("forget_verbatim_documents", 100, ".0f"),
    "retain verbatim %": ("retain_verbatim_tokens", 100, ".1f"),
    "Min-K% AUC": ("min_k_auc", 1, ".2f"),
}


@contextlib.contextmanager
def phase(phases: Phases, name: str, device: torch.device) -> Iterator[None]:
    """Writes what runs inside took: ``seconds``, and ``peak_mib``, the most memory held in the meantime.

    On CUDA that is what torch had allocated; on a CPU the process's resident memory, Python and torch included, which
    only Linux can begin anew: elsewhere it is the peak since the process began.
    """
    wait_for(device)
    _reset_peak(device)
    start = time.perf_counter()
    yield
    wait_for(device)
    phases[name] = {"seconds": time.perf_counter() - start, "peak_mib": _peak(device) / 2**20}


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def show(figures: Mapping[str, Figures], phases: Phases, about: Mapping[str, Any]) -> None:
    """Prints the figures of every model, and what each phase took."""
    console = Console()
    table = Table(title="what each model knows of the documents")
    table.add_column("model")
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for model, row in figures.items():
        table.add_row(model, *(_cell(row[key], scale, form) for key, scale, form in _COLUMNS.values()))
    console.print(table)
    costs = Table(title="what it took")
    for column in ("phase", "seconds", "peak MiB"):
        costs.add_column(column, justify="left" if column == "phase" else "right")
    for name, cost in phases.items():
        costs.add_row(name, f"{cost['seconds']:.2f}", f"{cost['peak_mib']:,.0f}")
    console.print(costs)
    console.print(
        f"{about['selected']:,} of {about['parameters']:,} parameters were selected; {about['forget']} documents to "
        f"forget, {about['retain']} to keep, {about['held_out']} held out; {about['processes']} process(es)"
    )


def _cell(value: float | None, scale: int, form: str) -> str:
    return "-" if value is None else f"{value * scale:{form}}"


def write(path: Path, figures: Mapping[str, Figures], phases: Phases, about: Mapping[str, Any]) -> None:
    """Writes all of it as JSON; numbers that JSON doesn't have become null."""
    clean = {
        model: {key: value if value is None or math.isfinite(value) else None for key, value in row.items()}
        for model, row in figures.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, "models": clean, "phases": phases}, indent=2, allow_nan=False) + "\n")
