"""A comparison on the terminal: one section per deletion request."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from fgunlearn.experiment.results import spread

WIDTH = 168
"""Columns of text that the table needs."""

_PARTS = (("u", "forget"), ("r", "retain"), ("t", "test"))


def table(results: dict[str, Any]) -> Table:
    """Source, retrained model and every method; the best of this package's own in green, all that keep the limits *."""
    seeds = len(results["configuration"]["seeds"])
    title = f"{results['configuration']['source']}, mean±std of {seeds} seed{'s' if seeds > 1 else ''}"
    shown = Table(title=title, title_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column("method", no_wrap=True)
    for heading in (
        "D_u %",
        "D_r %",
        "D_t %",
        "avg. gap",
        "ToW",
        "MIA",
        "FR",
        "MRR",
        "JS",
        "UD %",
        "s",
        "accel.",
        "pred.",
    ):
        shown.add_column(heading, justify="right", no_wrap=True)
    for section in results["summary"]:
        shown.add_row(f"[bold]{escape(section['title'])}[/]")
        for row in section["rows"]:
            name = escape(row["name"])
            if row["name"] == section["best"]["ours"]:
                name = f"[green]{name}[/]"
            if "failed" in row:
                shown.add_row(f"  {name}", f"failed for {row['failures']} of {section['seeds']} seeds")
                continue
            kept = "*" if "met" in row and all(row["met"].values()) else " "
            shown.add_row(
                f"{kept} {name}",
                *(spread(row[f"accuracy_{part}"], 1, 100.0) for _, part in _PARTS),
                spread(row["average_gap"], 2),
                spread(row["tug_of_war"], 3),
                spread(row["mia"]["loss"]["auc"], 2),
                spread(row["forgetting_rate"], 2),
                spread(row["memory_retention_rate"], 2),
                spread(row["js_divergence"], 3),
                spread(row["unlearning_degree"], 1, 100.0),
                spread(row["seconds"], 2),
                spread(row.get("acceleration"), 1),
                spread(row.get("predicted_acceleration"), 1),
            )
        shown.add_row()
    return shown


def verdicts(results: dict[str, Any]) -> list[str]:
    """Per request the best of this package's methods and of the others, and what each of them misses."""
    lines = []
    for section in results["summary"]:
        for which, whose in (("ours", "best of ours"), ("others", "best baseline")):
            best = next((row for row in section["rows"] if row["name"] == section["best"][which]), None)
            if best is not None:
                lines.append(f"{section['title']}: {whose} is {_verdict(best)}")
    return lines


def _verdict(row: dict[str, Any]) -> str:
    gaps = ", ".join(f"D_{letter} {100 * row[f'gap_{part}']['mean'] + 0.0:+.1f}" for letter, part in _PARTS)
    missed = [name for name, kept in row["met"].items() if not kept]
    return (
        f"{row['name']}, average gap {row['average_gap']['mean']:.2f} "
        f"({gaps} points, MIA {row['gap_mia']['mean']:+.3f}) at {row['acceleration']['mean']:.1f}x; "
        f"{'misses ' + ', '.join(missed) if missed else 'keeps to all limits'}"
    )
