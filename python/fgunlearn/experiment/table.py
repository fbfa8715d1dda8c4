"""The demo's table."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from fgunlearn.experiment.demo import ACCELERATION_LIMIT, GAP_LIMIT
from fgunlearn.experiment.results import spread

_TITLES = {
    "random": "forget a random 10%",
    "class": "forget one class",
    "mislabel": "forget 10% mislabelled",
}


WIDTH = 152
"""Columns of text that the table needs."""


def table(results: dict[str, Any]) -> Table:
    """One section per scenario: source, retrained, every recipe, and the short retraining as a control."""
    seeds = len(results["configuration"]["seeds"])
    title = f"fgunlearn demo: {results['configuration']['source']}, mean±std of {seeds} seed{'s' if seeds > 1 else ''}"
    shown = Table(title=title, title_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column("model", no_wrap=True)
    for heading in ("D_u %", "D_r %", "D_t %", "FR", "MRR", "JS", "MIA", "UD %", "UD loss", "s", "accel.", "pred."):
        shown.add_column(heading, justify="right", no_wrap=True)
    for section in results["summary"]:
        shown.add_row(f"[bold]{_TITLES[section['scenario']]}[/]")
        for row in section["rows"]:
            name = f"[green]{row['name']}[/]" if row["name"] == section["best"] else row["name"]
            predicted = row.get("predicted_acceleration")
            shown.add_row(
                f"  {name}",
                *(spread(row[f"accuracy_{part}"], 1, 100.0) for part in ("forget", "retain", "test")),
                spread(row["forgetting_rate"], 2),
                spread(row["memory_retention_rate"], 2),
                spread(row["js_divergence"], 3),
                spread(row["membership_auc"], 2),
                spread(row["unlearning_degree"], 1, 100.0),
                spread(row["unlearning_degree_loss"], 2),
                spread(row["seconds"], 1 if row["seconds"]["mean"] >= 10 else 2),
                spread(row.get("acceleration"), 1),
                "-" if predicted is None else f"{predicted['mean']:.1f}",
            )
        shown.add_row()
    return shown


def verdicts(results: dict[str, Any]) -> list[str]:
    """Per scenario the best recipe and whether it meets the limits."""
    lines = []
    for section in results["summary"]:
        best = next(row for row in section["rows"] if row["name"] == section["best"])
        gaps = ", ".join(
            f"D_{letter} {round(100 * best['gaps'][part], 1) + 0.0:+.1f}"
            for letter, part in (("u", "forget"), ("r", "retain"), ("t", "test"))
        )
        met = "meets" if section["met"] else "misses"
        lines.append(
            f"{section['scenario']}: best is {section['best']}, gaps to retraining {gaps} points at "
            f"{best['acceleration']['mean']:.1f}x; {met} the limits "
            f"({100 * GAP_LIMIT:g} point, {ACCELERATION_LIMIT:g}x)"
        )
    return lines
