"""The README's promises: its example runs, and its table is the committed result."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fgunlearn.experiment.table import WIDTH, table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_example_runs_as_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", blocks("python")[0]], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    forgotten, kept = (float(value) for value in re.findall(r"(\d\.\d+)", done.stdout)[:2])
    assert forgotten < 0.2
    assert kept > 0.9


def test_the_table_is_the_committed_result() -> None:
    results = json.loads((ROOT / "docs" / "results" / "demo-digits.json").read_text())
    console = Console(width=WIDTH, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(_with_nan(results)))
    shown = [line.rstrip() for line in console.export_text().splitlines() if line.strip()]
    printed = [line.rstrip() for line in blocks("text")[0].splitlines() if line.strip()]
    assert printed[: len(shown)] == shown


def _with_nan(value: object) -> object:
    if value is None:
        return float("nan")
    if isinstance(value, dict):
        return {key: _with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return value


@pytest.mark.parametrize("name", ["select", "score", "perturb", "update"])
def test_every_benchmark_target_in_the_readme_is_the_committed_figure(name: str) -> None:
    report = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    for target in report["targets"]:
        found = re.search(rf"^\| {re.escape(target['what'])} \| ([\d.]+) \|", README, re.MULTILINE)
        assert found, target["what"]
        assert float(found[1]) == pytest.approx(target["value"], rel=0.01)
