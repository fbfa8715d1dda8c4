"""Writes the committed results of the study into docs/unlearning-degree.md, between its marks.

Run it after ``fgunlearn spdgan study`` has written new results that are to be committed. A test compares the page with
what this script would write.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import marked_regions

from fgunlearn.experiment.degree.settings import SETTINGS
from fgunlearn.experiment.degree.shifts import GAN, NOISE, PLAIN
from fgunlearn.experiment.degree.trial import ORDERED
from fgunlearn.experiment.results import spread

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "unlearning-degree.md"
DATA = ("digits", "cifar10")


def results(data: str) -> dict[str, Any]:
    """The committed results on that data."""
    return json.loads((ROOT / "docs" / "results" / f"unlearning-degree-{data}.json").read_text())


def interval(found: dict[str, float], digits: int = 1, scale: float = 100.0) -> str:
    """A value with its interval."""
    value, low, high = (f"{scale * found[key] + 0.0:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def tasks_of(data: str, setting: str) -> list[dict[str, Any]]:
    """The results of one setting, a seed each."""
    return [task for task in results(data)["tasks"] if task["setting"] == setting]


def shift_of(task: dict[str, Any], name: str) -> dict[str, Any]:
    """What one task found about a shift."""
    return next(row for row in task["shifts"] if row["name"] == name)


def subtle(data: str) -> str:
    """Whether the shift is subtle, and whether it shows."""
    lines = [
        "| setting | source on D_u % | on shifted D_u | on shifted D_t | rms of the shift | MMD^2 to clean D_u, "
        "largest p | D_u to D_t unshifted, smallest p | UD of the source itself | seconds to fit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, summary in results(data)["summary"].items():
        row = next(r for r in summary["shifts"] if r["name"] == GAN)
        tasks = tasks_of(data, name)
        largest = max(shift_of(task, GAN)["mmd"]["source"]["p_value"] for task in tasks)
        iid = min(task["iid"]["p_value"] for task in tasks)
        itself = max(row["itself"] for task in tasks for row in task["shifts"])
        lines.append(
            f"| {SETTINGS[name].title} | {spread(row['source_accuracy_unshifted'], 1, 100.0)} | "
            f"{spread(row['source_accuracy'], 1, 100.0)} | {spread(row['source_accuracy_control'], 1, 100.0)} | "
            f"{spread(row['rms'], 3)} | "
            f"{spread(row['mmd']['source']['squared_mmd'], 3)}, p = {largest:.3f} | p = {iid:.3f} | {itself:g} | "
            f"{spread(row['seconds'], 1)} |"
        )
    return "\n".join(lines)


def retrained(data: str) -> str:
    """The degree of the retrained model, seed by seed."""
    lines = [
        "| setting | seed | UD_net, no shift | UD_net, SPD-GAN | UD_net of loss, no shift | UD_net of loss, SPD-GAN | "
        "UD_acc, SPD-GAN |",
        "|---|---|---|---|---|---|---|",
    ]
    for setting in results(data)["summary"]:
        for task in tasks_of(data, setting):
            plain, gan = (shift_of(task, shift)["retrained"] for shift in (PLAIN, GAN))
            lines.append(
                f"| {SETTINGS[setting].title} | {task['seed']} | {interval(plain['net'])} | {interval(gan['net'])} | "
                f"{interval(plain['net_loss'], 2, 1.0)} | {interval(gan['net_loss'], 2, 1.0)} | "
                f"{interval(gan['acc'])} |"
            )
    return "\n".join(lines)


def models(data: str) -> str:
    """Every model by its degree, on data as it is and shifted."""
    lines = [
        "| setting | model | JS from retrain | D_u % | D_t % | UD_net, no shift | SPD-GAN | noise | "
        "UD_net of loss, no shift | SPD-GAN | noise |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, summary in results(data)["summary"].items():
        for row in summary["methods"]:
            degrees = [row["degree"][shift] for shift in (PLAIN, GAN, NOISE)]
            cells = [spread(d["net"], 1, 100.0) for d in degrees] + [spread(d["net_loss"], 2) for d in degrees]
            lines.append(
                f"| {SETTINGS[name].title} | {row['name']} | {spread(row['distance'], 3)} | "
                f"{spread(row['accuracy_forget'], 1, 100.0)} | {spread(row['accuracy_test'], 1, 100.0)} | "
                f"{' | '.join(cells)} |"
            )
    return "\n".join(lines)


def order(data: str) -> str:
    """The order of the models by UD_net, and the rank correlations."""
    lines = [
        "| setting | shift | order by mean UD_net, highest first | deep, acc | deep, loss | near, acc | near, loss |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for name, summary in results(data)["summary"].items():
        for shift in (PLAIN, GAN, NOISE):
            rows = [row for row in summary["methods"] if row["name"] in ORDERED]
            rows.sort(key=lambda row, shift=shift: -row["degree"][shift]["net"]["mean"])
            found = summary["correlation"][shift]
            cells = [spread(found[f"{kind}_{of}"], 2) for kind in ("deep", "near") for of in ("acc", "loss")]
            lines.append(
                f"| {SETTINGS[name].title} | {'no shift' if shift == PLAIN else shift} | "
                f"{', '.join(row['name'] for row in rows)} | {' | '.join(cells)} |"
            )
    return "\n".join(lines)


def ablation(data: str) -> str:
    """Every shift, with a part left out or replaced."""
    lines = [
        "| setting | shift | rms | source on shifted D_u % | MMD^2, source | MMD^2, independent | "
        "UD_net of retraining | interval above 0 | UD_net of loss | interval above 0 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, summary in results(data)["summary"].items():
        for row in summary["shifts"]:
            seen = row.get("mmd")
            net, loss = row["retrained"]["net"], row["retrained"]["net_loss"]
            found = [shift_of(task, row["name"])["retrained"] for task in tasks_of(data, name)]
            above = {of: f"{sum(f[of]['low'] > 0 for f in found)} of {len(found)}" for of in ("net", "net_loss")}
            lines.append(
                f"| {SETTINGS[name].title} | {'no shift' if row['name'] == PLAIN else row['name']} | "
                f"{spread(row['rms'], 3) if 'rms' in row else 0} | {spread(row['source_accuracy'], 1, 100.0)} | "
                + " | ".join(spread(seen[of]["squared_mmd"], 3) if seen else "0" for of in ("source", "independent"))
                + f" | {spread(net, 1, 100.0)} | {above['net']} | {spread(loss, 2)} | {above['net_loss']} |"
            )
    return "\n".join(lines)


def machine(data: str) -> str:
    """Where and when it was measured."""
    found = results(data)
    where = found["machine"]
    return (
        f"{where['processor']}, {where['cores']} cores, {where['processes']} worker processes of one thread, torch "
        f"{where['torch']}, {where['simd']}; {found['seconds'] / 60:.0f} minutes in all, {found['date']}."
    )


TABLES: dict[str, Callable[[str], str]] = {
    "subtle": subtle,
    "retrained": retrained,
    "models": models,
    "order": order,
    "ablation": ablation,
    "machine": machine,
}

FIGURES = {f"{data} {name}": functools.partial(table, data) for data in DATA for name, table in TABLES.items()}


def rendered(text: str) -> str:
    """``text`` with everything between the marks measured; ValueError where a mark is missing."""
    return marked_regions.rendered(text, FIGURES, "docs/unlearning-degree.md")


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
