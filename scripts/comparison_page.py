"""Writes the committed comparisons into docs/compare.md and docs/cost-model.md, between their marks.

Run it after ``fgunlearn compare`` has written new results that are to be committed. A test compares the pages with what
this script would write.
"""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import marked_regions

from fgunlearn.experiment.results import spread
from fgunlearn.report import main_figure, save

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
DATA = ("digits", "cifar10")
LATER = ("cifar10-class",)
"""Some methods on one request of a comparison, measured again with later code; in docs/compare.md alone."""
MODELS = ("source", "retrained")


@functools.cache
def results(data: str) -> dict[str, Any]:
    """The committed results on that data."""
    return json.loads((DOCS / "results" / f"compare-{data}" / "results.json").read_text())


def is_sweep(row: dict[str, Any]) -> bool:
    """Whether a row is one of the sweeps', and not a method as it is meant to be used; others' options are tuned."""
    return row.get("ours", False) and ":" in row["name"] and "recipe=" not in row["name"]


def machine(data: str) -> str:
    """Where and when."""
    found = results(data)
    there = found["machine"]
    return (
        f"{there['processor']}, {there['cores']} cores, {there['processes']} worker processes of one thread, torch "
        f"{there['torch']}, {there['simd']}; seeds {', '.join(map(str, found['configuration']['seeds']))}; "
        f"{found['date']}."
    )


def summary(data: str, swept: bool) -> str:
    """Every model of every request; the limits that a method misses, or that it keeps to all."""
    lines = [
        "| request | method | D_u % | D_r % | D_t % | average gap | ToW | MIA gap | UD_net | acceleration | misses |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for section in results(data)["summary"]:
        for row in section["rows"]:
            if is_sweep(row) != swept and row["name"] not in (MODELS if swept else ()):
                continue
            lines.append(f"| {section['title']} | {_named(section, row)} | {_figures(row)} |")
    return "\n".join(lines)


def _named(section: dict[str, Any], row: dict[str, Any]) -> str:
    return f"**{row['name']}**" if row["name"] in section["best"].values() else row["name"]


def _figures(row: dict[str, Any]) -> str:
    if "failed" in row:
        return " | ".join([f"failed for {row['failures']} seeds: {row['failed']}", *[""] * 8])
    missed = [name for name, kept in row["met"].items() if not kept] if "met" in row else None
    return " | ".join(
        [
            *(spread(row[f"accuracy_{part}"], 1, 100.0) for part in ("forget", "retain", "test")),
            spread(row["average_gap"], 2),
            spread(row["tug_of_war"], 3),
            spread(row["gap_mia"], 3),
            spread(row["unlearning_degree"], 1, 100.0),
            spread(row.get("acceleration"), 1),
            "-" if missed is None else ", ".join(missed) or "nothing",
        ]
    )


def costs(data: str) -> str:
    """Predicted and measured acceleration of every method, over all requests and seeds."""
    lines = [
        "| method | measured | predicted | error, mean | error, from and to | selecting and setup, share of time |",
        "|---|---|---|---|---|---|",
    ]
    rows = [row for row in results(data)["rows"] if "predicted_acceleration" in row]
    for name in dict.fromkeys(row["name"] for row in rows):
        same = [row for row in rows if row["name"] == name]
        errors = [100 * row["prediction_error"] for row in same]
        before = [sum(s for phase, s in row["phases"].items() if phase in _BEFORE) / row["seconds"] for row in same]
        measured, predicted = (
            statistics.fmean(row[key] for row in same) for key in ("acceleration", "predicted_acceleration")
        )
        lines.append(
            f"| {name} | {measured:.1f} | {predicted:.1f} | {statistics.fmean(errors):+.0f}% | {min(errors):+.0f} to "
            f"{max(errors):+.0f}% | {100 * statistics.fmean(before):.0f}% |"
        )
    return "\n".join(lines)


_BEFORE = ("recipe", "select", "importance", "forget setup", "relabel", "teacher")

PAGES: dict[str, dict[str, Callable[[str], str]]] = {
    "compare.md": {
        "machine": machine,
        "methods": lambda data: summary(data, swept=False),
        "sweeps": lambda data: summary(data, swept=True),
    },
    "cost-model.md": {"machine": machine, "costs": costs},
}


def rendered(page: str, text: str) -> str:
    """The page of that name, its figures written anew."""
    figures = {
        f"{data} {name}": functools.partial(figure, data)
        for data in (*DATA, *(LATER if page == "compare.md" else ()))
        for name, figure in PAGES[page].items()
        if name != "sweeps" or any(map(is_sweep, results(data)["rows"]))
    }
    return marked_regions.rendered(text, figures, f"docs/{page}")


def main() -> None:
    """Writes the pages, and for the README the plot of every comparison."""
    for page in PAGES:
        text = rendered(page, (DOCS / page).read_text())
        (DOCS / page).write_text(text)
    for data in DATA:
        save(main_figure(results(data)), DOCS / "results" / f"compare-{data}" / "quality.png")


if __name__ == "__main__":
    main()
