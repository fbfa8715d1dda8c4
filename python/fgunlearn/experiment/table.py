"""The demo's table."""

from __future__ import annotations

import math
from typing import Any

from rich.table import Table

from fgunlearn.experiment.demo import ACCELERATION_LIMIT, GAP_LIMIT

_TITLES = {
    "random": "forget a random 10%",
    "class": "forget one class",
    "mislabel": "forget 10% mislabelled samples",
}


def _percent(value: dict[str, float]) -> str:
    spread = "" if math.isnan(value["std"]) else f" ±{100 * value['std']:.1f}"
    return f"{100 * value['mean']:.1f}{spread}"


def _plain(value: dict[str, float] | None, digits: int) -> str:
    if value is None or math.isnan(value["mean"]):
        return "-"
    return f"{value['mean']:.{digits}f}"


def table(results: dict[str, Any]) -> Table:
    """One section per scenario: source, retrained, every recipe, and the short retraining as a control."""
    shown = Table(title=f"fgunlearn demo: {results['configuration']['source']}", title_style="bold", pad_edge=False)
    shown.add_column("model", no_wrap=True)
    for title in ("D_u %", "D_r %", "D_t %", "FR", "MRR", "JS", "MIA", "s", "accel.", "pred."):
        shown.add_column(title, justify="right", no_wrap=True)
    for section in results["summary"]:
        shown.add_row(f"[bold]{_TITLES[section['scenario']]}[/] ({section['seeds']} seeds)")
        for row in section["rows"]:
            name = f"[green]{row['name']}[/]" if row["name"] == section["best"] else row["name"]
            accelerated = row.get("acceleration")
            shown.add_row(
                name,
                *(_percent(row[f"accuracy_{part}"]) for part in ("forget", "retain", "test")),
                _plain(row["forgetting_rate"], 2),
                _plain(row["memory_retention_rate"], 2),
                _plain(row["js_divergence"], 3),
                _plain(row["membership_auc"], 2),
                _plain(row["seconds"], 2),
                _plain(accelerated, 1) if accelerated else "-",
                _plain(row.get("predicted_acceleration"), 1),
            )
        shown.add_section()
    return shown


def verdicts(results: dict[str, Any]) -> list[str]:
    """Per scenario the best recipe and whether it meets the limits."""
    lines = []
    for section in results["summary"]:
        best = next(row for row in section["rows"] if row["name"] == section["best"])
        gaps = ", ".join(
            f"D_{letter} {100 * best['gaps'][part]:+.1f}"
            for letter, part in (("u", "forget"), ("r", "retain"), ("t", "test"))
        )
        met = "meets" if section["met"] else "misses"
        lines.append(
            f"{section['scenario']}: best is {section['best']}, gaps to retraining {gaps} points at "
            f"{best['acceleration']['mean']:.1f}x; {met} the limits "
            f"({100 * GAP_LIMIT:g} point, {ACCELERATION_LIMIT:g}x)"
        )
    return lines
