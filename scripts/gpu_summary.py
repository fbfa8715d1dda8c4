"""Writes ``summary.md`` from what ``gpu_check.sh`` has left so far in a folder; or says in a line how one step went.

Figures are copied from the results, never computed anew, and a step that did not pass is never shown as one that did.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

SKIPPED = 77
"""Exit status that ``gpu_check.sh`` takes for a step that could not be done."""

KERNEL = "Kernel Name"
NANOSECONDS = "gpu__time_duration.sum"
READ = "dram__bytes_read.sum"
WRITTEN = "dram__bytes_write.sum"
THROUGHPUT = "dram__throughput.avg.pct_of_peak_sustained_elapsed"
REGISTERS = "launch__registers_per_thread"


def cells(*values: object) -> str:
    """One line of a table."""
    return "| " + " | ".join(str(value).replace("|", "\\|") for value in values) + " |"


def steps(folder: Path) -> list[str]:
    """The steps with their outcome, in the order they ended."""
    path = folder / "steps.tsv"
    rows = [line.split("\t") for line in path.read_text().splitlines()] if path.exists() else []
    rows = [row for row in rows if len(row) == 4]
    if not rows:
        return ["No step has ended."]
    count = {status: sum(row[1] == status for row in rows) for status in ("passed", "failed", "skipped")}
    lines = [", ".join(f"{number} {status}" for status, number in count.items()) + ".", ""]
    lines += [cells("step", "outcome", "seconds", "last word"), "|---|---|---:|---|"]
    return lines + [
        cells(name, f"**{status}**" if status == "failed" else status, *rest) for name, status, *rest in rows
    ]


def machine(folder: Path) -> list[str]:
    """What the figures were measured on, as the benchmarks recorded it."""
    for report in reports(folder):
        held = report["machine"]
        return [", ".join(f"{key} {held[key]}" for key in held)]
    return []


def reports(folder: Path) -> list[dict[str, Any]]:
    """The benchmarks' reports, complete or not."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("results/*/*.json"))]


def figures(report: dict[str, Any]) -> list[str]:
    """Targets, what is ours against its floor, and what was left out."""
    quick = ", quick: sizes too small to judge by" if report.get("quick") else ""
    lines = [f"## {report['name']}, {report['device']}{quick}", ""]
    if report["targets"]:
        lines += [cells("target", "measured", "bound", "met"), "|---|---:|---:|---|"]
        for target in report["targets"]:
            sign = ">=" if target["at_least"] else "<="
            met = "yes" if target["met"] else "**no**"
            lines.append(cells(target["what"], f"{target['value']:.3g}", f"{sign} {target['limit']:g}", met))
        lines.append("")
    head = ("what", "who", "ms", "IQR", "GB/s", "of the copy", "floor ms", "over floor", "note")
    lines += [cells(*head), "|---|---|---:|---:|---:|---:|---:|---:|---|"]
    for row in report["rows"]:
        optional = [
            "" if row.get(key) is None else f"{row[key]:{form}}"
            for key, form in (
                ("gigabytes_per_second", ".0f"),
                ("copy_share", ".0%"),
                ("floor_ms", ".4f"),
                ("over_floor", ".2f"),
            )
        ]
        lines.append(
            cells(row["what"], row["who"], f"{row['milliseconds']:.4f}", f"{row['spread']:.4f}", *optional, row["note"])
        )
    lines += ["", *(f"- left out: {why}" for why in report["left_out"])]
    return [*lines, *(f"- **failed**: {why}" for why in report["failures"]), ""]


def kernels(path: Path) -> list[dict[str, str]]:
    """ncu's raw page: one row per launch, after the lines that are not CSV and the row of units."""
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.startswith('"')]
    rows = list(csv.DictReader(lines))
    return [row for row in rows if (row.get(NANOSECONDS) or "").strip() and row.get("ID", "").strip()]


def number(row: dict[str, str], key: str) -> float:
    """A metric's value; NaN where ncu has none."""
    try:
        return float((row.get(key) or "nan").replace(",", ""))
    except ValueError:
        return float("nan")


def kernel_table(path: Path) -> list[str]:
    """The launches that took longest."""
    rows = sorted(kernels(path), key=lambda row: -number(row, NANOSECONDS))[:40]
    if not rows:
        return []
    lines = ["## Kernels, by ncu", "", cells("kernel", "ms", "read MB", "written MB", "% of peak DRAM", "registers")]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        time, read, written = number(row, NANOSECONDS) / 1e6, number(row, READ) / 1e6, number(row, WRITTEN) / 1e6
        share, registers = number(row, THROUGHPUT), number(row, REGISTERS)
        lines.append(
            cells(row[KERNEL], f"{time:.4f}", f"{read:.1f}", f"{written:.1f}", f"{share:.1f}", f"{registers:.0f}")
        )
    return [*lines, ""]


def summary(folder: Path) -> str:
    """The page."""
    lines = ["# GPU check", "", *machine(folder), "", *steps(folder), ""]
    for report in reports(folder):
        lines += figures(report)
    if (folder / "ncu.csv").exists():
        lines += kernel_table(folder / "ncu.csv")
    return "\n".join(lines).rstrip("\n") + "\n"


def counts(path: Path) -> int:
    """Says how the tests of a JUnit file went; 77 where none was run to its end, 1 where any failed."""
    tests = list(ElementTree.parse(path).getroot().iter("testcase"))
    failed = sum(test.find("failure") is not None or test.find("error") is not None for test in tests)
    skipped = sum(test.find("skipped") is not None for test in tests)
    passed = len(tests) - failed - skipped
    print(f"{passed} tests passed, {failed} failed, {skipped} skipped")
    return 1 if failed else (0 if passed else SKIPPED)


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="of gpu_check.sh: write its summary.md")
    parser.add_argument("--counts", type=Path, metavar="XML", help="say how these tests went")
    parser.add_argument("--targets", type=Path, metavar="JSON", help="say how many targets this report meets")
    parser.add_argument("--kernels", type=Path, metavar="CSV", help="say how many launches ncu measured; 1 if none")
    chosen = parser.parse_args(arguments)
    if chosen.counts is not None:
        return counts(chosen.counts)
    if chosen.targets is not None:
        report = json.loads(chosen.targets.read_text())
        met = sum(target["met"] for target in report["targets"])
        print(f"{len(report['rows'])} rows, {met} of {len(report['targets'])} targets met")
        return 0
    if chosen.kernels is not None:
        measured = len(kernels(chosen.kernels))
        print(f"{measured} launches measured")
        return 0 if measured else 1
    if chosen.folder is None:
        parser.error("which folder?")
    (chosen.folder / "summary.md").write_text(summary(chosen.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
