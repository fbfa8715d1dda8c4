"""The table of ``fgunlearn tune``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from fgunlearn.experiment.results import spread

WIDTH = 150
"""Columns of text that the table needs."""


def table(results: dict[str, Any]) -> Table:
    """One row per request: what was chosen by each seed, and how near to the best of what was tried it is."""
    configuration = results["configuration"]
    seeds = len(configuration["seeds"])
    title = (
        f"{configuration['method']} on {configuration['source']}, mean±std of {seeds} seed{'s' if seeds > 1 else ''}"
    )
    shown = Table(title=title, title_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column("request", no_wrap=True)
    hindsight = configuration["hindsight"]
    headings = ["K, perturbation, epochs", "criterion"]
    if hindsight:
        headings += ["gap", "best by hindsight", "its gap", "regret", "recipe's", "rank corr."]
    headings += ["search s"] + (["retrain s"] if hindsight else [])
    for heading in headings:
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in results["summary"]:
        cells = [_each(row["chosen"]), spread(row["criterion"], 2)]
        if hindsight:
            cells += [spread(row["gap"], 2), _each(row["best"])]
            cells += [spread(row[name], 2) for name in ("best_gap", "regret", "regret_of_recipe", "spearman")]
        cells += [spread(row["seconds"], 1)]
        if hindsight:
            cells += [spread(row["retrain_seconds"], 1)]
        shown.add_row(row["title"], *cells)
    return shown


def _each(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each seed, one where they agree."""
    lines = [f"{row['ratio']:g}, {row['perturb']}, {row['epochs']:g}" for row in rows]
    return lines[0] if len(set(lines)) == 1 else "\n".join(lines)
