"""Writes the committed relearning study into docs/audit.md, between its marks.

Run it after ``python -m fgunlearn.experiment.relearning --out docs/results/relearning-digits.json`` has written new
results that are to be committed. A test compares the page with what this script would write.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import marked_regions

from fgunlearn.experiment.results import spread

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "audit.md"
RESULTS = ROOT / "docs" / "results" / "relearning-digits.json"

TITLES = {"random": "a random tenth", "class": "a class"}


@functools.cache
def results() -> dict[str, Any]:
    """The committed study."""
    return json.loads(RESULTS.read_text())


def machine() -> str:
    """Where and when, and how the forgotten was trained back."""
    found = results()
    there, configuration = found["machine"], found["configuration"]
    how = configuration["relearning"]
    return (
        f"{there['processor']}, torch {there['torch']}; {configuration['source']}, seeds "
        f"{', '.join(map(str, configuration['seeds']))}, mean±std; {found['date']}. SGD on D_u in batches of "
        f"{how['batch']}, learning rate {how['lr']:g}, momentum {how['momentum']:g}, until its loss is at most "
        f"{1 + how['tolerance']:g} times the source's, looked at every {how['check_every']} steps, at most "
        f"{how['max_steps']}."
    )


def steps(found: dict[str, Any], most: int) -> str:
    """Steps until D_u was there again; a bound where a seed never was."""
    if found["reached"]["mean"] == 0:
        return f"> {most}"
    bound = "≥ " if found["reached"]["mean"] < 1 else ""
    return f"{bound}{spread(found['steps'], 0)}"


def table(scenario: str) -> str:
    """Every model of a scenario: before training, as it is and rounded, and how long it trains."""
    found, most = results()["summary"][scenario], results()["configuration"]["relearning"]["max_steps"]
    bits = results()["configuration"]["bits"]
    ways = {"float": "as it is", **{f"int{b}": f"int{b}" for b in bits}}
    heads = [
        *(f"D_u %, {name}" for name in ways.values()),
        *(f"D_t %, {name}" for name in ways.values()),
        *(f"steps, {name}" for name in ways.values()),
        *(f"moved < ½ step of {b} bits, %" for b in bits),
    ]
    lines = [f"| {TITLES[scenario]} | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for name, model in found.items():
        cells = [
            *(spread(model[way]["accuracy_forget"], 1, 100) for way in ways),
            *(spread(model[way]["accuracy_test"], 1, 100) for way in ways),
            *(steps(model[way], most) for way in ways),
            *(spread(model[f"within_half_a_step_of_{b}_bits"], 1, 100) for b in bits),
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


FIGURES = {"machine": machine, **{name: functools.partial(table, name) for name in TITLES}}


def rendered(page: str) -> str:
    """The page with the study between its marks."""
    return marked_regions.rendered(page, FIGURES, "docs/audit.md")


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
