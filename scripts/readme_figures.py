"""Writes the committed measurements into README.md, between its ``<!-- figures: ... -->`` marks.

Run it after ``make demo`` or ``make bench`` have written new results that are to be committed. A test compares the
README with what this script would write, so that a figure there cannot differ from the measurement behind it.
"""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path
from typing import Any

import marked_regions
from rich.console import Console

from fgunlearn.experiment.table import WIDTH, table, verdicts

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BENCHMARKS = ("select", "score", "perturb", "update")


def benchmark(name: str) -> dict[str, Any]:
    """The committed report of ``fgunlearn bench NAME``."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def demo() -> dict[str, Any]:
    """The committed results of the demo; what JSON holds as null was NaN."""

    def with_nan(value: object) -> Any:
        if isinstance(value, dict):
            return {key: with_nan(item) for key, item in value.items()}
        if isinstance(value, list):
            return [with_nan(item) for item in value]
        return float("nan") if value is None else value

    return with_nan(json.loads((ROOT / "docs" / "results" / "demo-digits.json").read_text()))


def demo_table() -> str:
    """The demo's table and verdicts as printed."""
    results = demo()
    with open(os.devnull, "w") as nowhere:
        console = Console(width=WIDTH, record=True, file=nowhere)
        console.print(table(results))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    return "\n".join(["```text", *"\n".join(lines).rstrip("\n").split("\n"), "", *verdicts(results), "```"])


def demo_machine() -> str:
    """Where the demo's results were measured."""
    results = demo()
    machine = results["machine"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['processes']} worker processes of one thread, "
        f"torch {machine['torch']},\n{machine['simd']}; {results['seconds']:.0f} s in all."
    )


def targets() -> str:
    """One row for each target of the benchmarks."""
    rows = ["| what | measured | target | met |", "|---|---|---|---|"]
    for name in BENCHMARKS:
        for target in benchmark(name)["targets"]:
            bound = "at least" if target["at_least"] else "at most"
            rows.append(
                f"| {target['what']} | {target['value']:.3g} | {bound} {target['limit']:g} | "
                f"{'yes' if target['met'] else 'no'} |"
            )
    return "\n".join(rows)


def measured(name: str, what: str, who: str) -> dict[str, Any]:
    """One row of a benchmark."""
    rows = benchmark(name)["rows"]
    return next(row for row in rows if row["what"] == what and row["who"] == who)


def headline() -> str:
    """The two times that a user compares first."""

    def milliseconds(name: str, what: str, who: str) -> str:
        return f"{measured(name, what, who)['milliseconds']:,.0f}"

    top = "top-k, 1e+08 f32, k = 1.0%"
    step = "AdamW, n = 1e+08, k = 1.0%"
    text = (
        f"Exact top 1% of 1e8 floats takes {milliseconds('select', top, 'fgunlearn')} ms where `x.sum()` takes "
        f"{milliseconds('select', top, 'x.sum()')} and `torch.topk` {milliseconds('select', top, 'torch.topk')}; "
        f"a step of AdamW on 1% of 1e8 parameters {milliseconds('update', step, 'fgunlearn')} ms where masking the "
        f"gradient of a fused dense step takes {milliseconds('update', step, 'grad.mul_(mask) + fused torch')}."
    )
    return textwrap.fill(text, 120)


def sparse_fine_tuning() -> str:
    """Time and peak memory of a repair step, and what freezing saves."""
    rows = benchmark("update")["rows"]
    steps = [row for row in rows if row["what"].startswith("repair step")]
    table = [f"| {steps[0]['what']} | peak memory | ms |", "|---|---|---|"]
    for row in steps:
        table.append(f"| {row['who']} | {row['note'].removeprefix('peak memory ')} | {row['milliseconds']:,.0f} |")
    frozen = next(row for row in rows if row["who"] == "fgunlearn, freeze_untouched")
    unfrozen = measured("update", frozen["what"], "fgunlearn")
    saving = (
        "Memory is what the process holds beyond what it held before the model was made. With the "
        f"{frozen['what'].removeprefix('forward and backward, ')} alone, `freeze_untouched` takes a forward and "
        f"backward pass from {unfrozen['milliseconds']:,.0f} to {frozen['milliseconds']:,.0f} ms."
    )
    return "\n".join([*table, "", textwrap.fill(saving, 120)])


FIGURES = {
    "demo table": demo_table,
    "demo machine": demo_machine,
    "sparse fine-tuning": sparse_fine_tuning,
    "targets": targets,
    "headline": headline,
}


def rendered(text: str) -> str:
    """``text`` with everything between the marks measured; ValueError where a mark is missing."""
    return marked_regions.rendered(text, FIGURES, "README.md")


if __name__ == "__main__":
    README.write_text(rendered(README.read_text()))
