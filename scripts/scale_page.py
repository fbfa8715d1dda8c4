"""Writes the arithmetic of ``fgunlearn plan`` and the committed measurements into docs/scale.md, between its marks.

Run it after a formula has changed, or after results of ``fgunlearn.benchmarks.scale_run`` that are to be committed were
put into docs/results/ as scale-*.json. A test compares the page with what this script would write.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import marked_regions

from fgunlearn.planning import DEVICES, ModelSize, Plan, Setting, made

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "scale.md"
RESULTS = ROOT / "docs" / "results"

SIZES = {"8e9": 8 * 10**9, "7e10": 70 * 10**9, "1e12": 10**12}
DEVICE_COUNTS = (1, 8, 64)
TOKENS = 4096
SHARE_OF_1000 = 1  # k = 0.1%
KEYS = ("select_dense", "select_streaming", "repair", "repair_freed", "adamw", "adamw_mixed")
HEADS = (
    "select, dense",
    "select, streaming",
    "repair",
    "repair, free_grads",
    "AdamW, bf16 states",
    "AdamW, mixed precision",
)
PARTS = ("weights", "gradients", "scores", "work", "selection", "state", "activations")
BUILT, PASS = "make the model", "forward and backward"
WAYS = {"streaming": ("select_streaming", "repair_freed"), "dense": ("select_dense",), "adamw": ("adamw",)}
NAMES = {
    "streaming": "select streaming, perturb, repair with free_grads",
    "dense": "select dense",
    "adamw": "dense AdamW",
}


def plan(n: int, devices: int, batches: int = 1, memory_budget: int | None = None) -> Plan:
    """The page's example: bf16, k = 0.1%, 4,096 tokens in a batch of each H200, activations recomputed."""
    sheet = DEVICES["h200"]
    setting = Setting(
        k=n * SHARE_OF_1000 // 1000,
        tokens=TOKENS,
        batches=batches,
        devices=devices,
        recompute=True,
        memory_budget=memory_budget,
    )
    return made(ModelSize.of(n), setting, sheet.rates, sheet.memory)


def gib(value: float) -> str:
    """Bytes as GiB."""
    held = value / 2**30
    return "0" if held == 0 else f"{held:,.0f}" if held >= 100 else f"{held:.1f}" if held >= 1 else f"{held:.2g}"


def mib(value: float) -> str:
    """Bytes as MiB."""
    return f"{value / 2**20:,.0f}"


def table(heads: tuple[str, ...], rows: list[list[str]]) -> str:
    """A Markdown table, the first column to the left."""
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def memory() -> str:
    """What a device has to hold; bold where it fits."""
    rows = []
    for name, n in SIZES.items():
        for devices in DEVICE_COUNTS:
            planned = plan(n, devices)
            totals = [planned.way(key) for key in KEYS]
            cells = [f"**{gib(way.memory.total)}**" if way.fits else gib(way.memory.total) for way in totals]
            rows.append([f"{name} on {devices}", *cells])
    return table(("GiB on one device", *HEADS), rows)


def parts() -> str:
    """What the totals are made of, for the smallest example."""
    planned = plan(SIZES["8e9"], 1)
    rows = []
    for key, head in zip(KEYS, HEADS, strict=True):
        need = planned.way(key).memory
        rows.append([head, *(gib(getattr(need, part)) for part in PARTS), gib(need.total)])
    return table(("8e9 on 1, GiB", *PARTS, "total"), rows)


def seconds(value: float | None) -> str:
    """Seconds, three digits."""
    assert value is not None
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def times() -> str:
    """Lower bounds at datasheet rates."""
    rows = []
    for name, n in SIZES.items():
        planned = plan(n, 1)
        cells = [seconds(planned.way(key).seconds) for key in KEYS if key != "repair_freed"]
        rows.append([name, *cells])
    heads = tuple(head for head, key in zip(HEADS, KEYS, strict=True) if key != "repair_freed")
    return table(("seconds at the least, one device", *heads), rows)


def budgets() -> str:
    """What a larger budget saves where there are several batches."""
    rows = []
    for budget in (2**28, 2**30, None, 2**33, 2**34, 2**35):
        planned = plan(SIZES["8e9"], 1, batches=10, memory_budget=budget)
        way = planned.way("select_streaming")
        name = gib(planned.setting.budget(planned.model)) + (" (the default)" if budget is None else "")
        rows.append([name, gib(way.memory.total), f"{way.work.passes / 10:.3g}", seconds(way.seconds)])
    dense = plan(SIZES["8e9"], 1, batches=10).way("select_dense")
    rows.append(["dense", gib(dense.memory.total), f"{dense.work.passes / 10:.3g}", seconds(dense.seconds)])
    return table(("memory_budget, GiB", "memory, GiB", "passes per batch", "seconds at the least"), rows)


def results() -> list[dict[str, Any]]:
    """The committed measurements, small models first."""
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("scale-*.json"))]
    return sorted(found, key=lambda one: one["model"]["parameters"])


def predicted(found: dict[str, Any], way: str, activations: int) -> int:
    """What the formulas say of a measured way, given what its forward pass kept."""
    sizes = found["model"]
    model = ModelSize(sizes["parameters"], found["dtype"], sizes["layers"], sizes["width"], sizes["largest_tensor"])
    setting = Setting(k=found["k"], tokens=found["batch"] * found["length"], activations=activations)
    planned = made(model, setting)
    return max(planned.way(key).memory.total for key in WAYS[way])


def measured() -> str:
    """Peaks beside what the formulas say."""
    found = results()
    if not found:
        return "**Not measured yet.**"
    heads = (
        "parameters",
        "what",
        "weights",
        "pass alone",
        "peak",
        "beyond the pass",
        "formulas",
        "formulas over measured",
        "seconds",
    )
    rows = []
    for one in found:
        for run in one["runs"]:
            phases = {phase["phase"]: phase for phase in run["phases"]}
            start = [f"{one['model']['parameters']:.3g}", NAMES[run["way"]], mib(one["weights"])]
            if "peak" not in run:
                reached = mib(phases[PASS]["peak"]) if PASS in phases else "-"
                rows.append([*start, reached, f"did not fit: {run['failed']}", "-", "-", "-", "-"])
                continue
            alone = phases[PASS]["peak"]
            gradient = 2 * one["model"]["largest_tensor"]
            said = predicted(one, run["way"], max(0, alone - one["weights"] - gradient))
            taken = [phase["seconds"] for name, phase in phases.items() if name not in (BUILT, PASS)]
            shown = "-" if None in taken else seconds(sum(taken))
            cells = [mib(alone), mib(run["peak"]), mib(run["beside_the_pass"]), mib(said), f"{said / run['peak']:.2f}"]
            rows.append([*start, *cells, shown])
    return table(heads, rows)


def machine() -> str:
    """Where the measurements were taken, and whether the target was met."""
    found = results()
    if not found:
        return "No measurement is committed."
    where, last = found[-1]["machine"], found[-1]
    verdict = "met" if last.get("target_met") else "missed"
    busy = any(phase["seconds"] is None for one in found for run in one["runs"] for phase in run["phases"])
    text = (
        f"{where['processor']}, {where['cores']} cores, {where['memory_gib']:g} GiB, torch {where['torch']}, "
        f"{last['date']}{'; beside other work, so without seconds' if busy else ''}. bf16, k = 0.1%, one batch of "
        f"{last['batch']} x {last['length']} tokens, MiB beyond what the process held before. Target, at "
        f"{last['model']['parameters']:.3g} parameters: streaming below weights, activations and 1 GiB: {verdict}."
    )
    return textwrap.fill(text, 120)


FIGURES: dict[str, Callable[[], str]] = {
    "memory": memory,
    "parts": parts,
    "times": times,
    "budgets": budgets,
    "machine": machine,
    "measured": measured,
}


def rendered(text: str) -> str:
    """``text`` with everything between the marks written anew; ValueError where a mark is missing."""
    return marked_regions.rendered(text, FIGURES, "docs/scale.md")


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
