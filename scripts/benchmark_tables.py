"""Writes the tables of benchmarks/README.md, between its ``<!-- figures: ... -->`` marks, from benchmarks/results.

Run it after new results are to be committed. A test compares the page with what this script would write, so that no
figure there can differ from the measurement behind it. Where no GPU's results lie in benchmarks/results, the page has
no figure for a GPU: only the bytes that must move, and the time that takes at a bandwidth from a datasheet.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import marked_regions

from fgunlearn.benchmarks import floors

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "benchmarks" / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
NAMES = ("select", "bracket", "score", "perturb", "update")

DATASHEET = 4.8e12
"""Bytes per second of an NVIDIA H200's memory, by its datasheet."""


def reports(folder: Path) -> list[dict[str, Any]]:
    """The committed reports of one device, in the order of NAMES, others after them."""
    rank = {name: place for place, name in enumerate(NAMES)}
    paths = sorted(folder.glob("*.json"), key=lambda path: (rank.get(path.stem, len(rank)), path.stem))
    return [json.loads(path.read_text()) for path in paths]


def copy_rate(report: dict[str, Any]) -> float | None:
    """Gigabytes per second of the copy in this report; the first results have it only in their row of the copy."""
    recorded = report.get("copy_gigabytes_per_second")
    copies = [row["gigabytes_per_second"] for row in report["rows"] if row["who"] == "torch copy_"]
    return recorded or (copies[0] if copies else None)


def measured(value: float) -> str:
    """Milliseconds to three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(report: dict[str, Any]) -> list[str]:
    """One row per comparison and contender; ours in bold."""
    rate = copy_rate(report)
    lines = ["| what | who | ms | IQR | GB/s | of the copy | over its floor |", "|---|---|---:|---:|---:|---:|---:|"]
    for row in report["rows"]:
        who = f"**{row['who']}**" if row["who"].startswith("fgunlearn") else row["who"]
        moved, share, over = row["gigabytes_per_second"], "", ""
        if moved is not None and rate and row["who"] != "torch copy_":
            share, over = f"{moved / rate:.0%}", f"{rate / moved:.2f}"
        speed = "" if moved is None else f"{moved:,.1f}"
        figures = (measured(row["milliseconds"]), measured(row["spread"]), speed, share, over)
        lines.append(f"| {row['what']} | {who} | {' | '.join(figures)} |")
    notes = []
    for target in report["targets"]:
        bound = ">=" if target["at_least"] else "<="
        verdict = "met" if target["met"] else "missed"
        notes.append(f"- target: {target['what']} {bound} {target['limit']:g}: {target['value']:.3g}, {verdict}")
    notes += [f"- left out: {why}" for why in report.get("left_out", [])]
    return [*lines, *([""] if notes else []), *notes]


def device_tables(folder: Path) -> list[str]:
    """All reports of a device, each under what it was measured on."""
    lines = []
    for report in reports(folder):
        held = report["machine"]
        where = f"{held['processor']}, {report['threads']} threads, {held['simd']}"
        if "gpu" in held:
            where = f"{held['gpu']}, driver {held['driver']}, CUDA {held['cuda']}"
        lines += [f"### {report['name']}", ""]
        lines += [f"{where}; torch {held['torch']}, commit {held['commit']}, {held['date']}.", "", *table(report), ""]
    return lines


def cpu() -> str:
    """The committed results of a CPU."""
    return "\n".join(device_tables(RESULTS)).rstrip()


def gpus() -> str:
    """The committed results of every GPU, or that there are none."""
    folders = sorted(path for path in RESULTS.glob("cuda-*") if path.is_dir())
    if not folders:
        return "**Not measured yet.** No figure for a GPU stands on this page, because none has been taken."
    lines: list[str] = []
    for folder in folders:
        lines += [f"**{folder.name}**", "", *device_tables(folder)]
    return "\n".join(lines).rstrip()


def predictions() -> str:
    """The bytes that must move, and the time they take at the datasheet's bandwidth; k is 1% of n throughout."""
    n, k = 10**8, 10**6
    large = 10**9
    half = 7 * 10**9
    resnet = 11_173_962
    images = 256 * 3 * 224 * 224
    works = (
        ("top-k, ResNet-18's 62 tensors, f32", "keys read, indices written", floors.top_k(resnet, resnet // 100)),
        ("top-k, n = 1e8 f32", "keys read, indices written", floors.top_k(n, k)),
        ("top-k, n = 1e9 f32", "keys read, indices written", floors.top_k(large, large // 100)),
        ("top-k, n = 7e9 bf16", "keys read, 8-byte indices written", floors.top_k(half, half // 100, 2)),
        ("Random-k, n = 1e8", "indices written", floors.random_k(n, k)),
        ("score accumulation, n = 1e8 f32", "gradient and score read, score written", floors.accumulate(n)),
        ("score accumulation, n = 1e8 bf16", "gradient and score read, score written", floors.accumulate(n, 2)),
        ("score accumulation and top-k in one op, n = 1e8", "the same, and indices", floors.accumulate_top_k(n, k)),
        ("Gaussian noise on k, n = 1e8", "indices read, sectors read and written", floors.perturb(n, k)),
        ("zeroing k, n = 1e8", "indices read, sectors written", floors.overwrite(n, k)),
        ("rms, n = 1e8", "one read", floors.one_read(n)),
        ("gather or scatter of k, n = 1e8", "indices, values, sectors", floors.gather(n, k)),
        ("sparse_add, n = 1e8", "tensor read and written, indices and deltas read", floors.sparse_add(n, k)),
        ("SGD with momentum on k, n = 1e8", "indices, momenta, sectors", floors.sparse_step(n, k, states=1)),
        ("spd_perturb, 256 x 3 x 224 x 224 f32", "x, g read, result written", floors.shift(images)),
        ("its way back to g", "gradient, x, g read, dg written", floors.shift_backward(images)),
    )
    lines = ["| what, k = 1% of n | what must move | MB | prediction: no less than, ms |", "|---|---|---:|---:|"]
    for what, how, moved in works:
        lines.append(f"| {what} | {how} | {moved / 1e6:,.1f} | {1e3 * moved / DATASHEET:.4f} |")
    return "\n".join(lines)


FIGURES = {"cpu": cpu, "gpus": gpus, "predictions": predictions}


def rendered(text: str) -> str:
    """``text`` with everything between the marks written anew; ValueError where a mark is missing."""
    return marked_regions.rendered(text, FIGURES, "benchmarks/README.md")


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
