"""The README's promises: its example runs, and its figures are the committed results."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import fgunlearn as fg
from fgunlearn.batches import cross_entropy

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


def test_the_unlearning_degree_is_measured_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    def made() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))

    data = [(torch.rand(40, 8), torch.arange(40) % 4) for _ in range(3)]
    forget, train, test = ([batch] for batch in data)
    names = {"fg": fg, "source": made(), "model": made(), "forget": forget, "train": train, "test": test}
    exec(blocks("python")[1], names)
    assert "Interval(value=" in capsys.readouterr().out


def test_the_drop_in_change_runs_as_written_and_moves_the_selection_alone() -> None:
    model = torch.nn.Linear(20, 10)
    batch = (torch.randn(8, 20), torch.arange(8))
    before, after = blocks("python")[2].split("\n\n")
    lines = [line for line in (before + "\n" + after).splitlines() if line and not line.startswith("#")]
    assert len(lines) == 6
    names = {"torch": torch, "fg": fg, "model": model, "batch": batch, "loss_fn": cross_entropy}
    names["selection"] = fg.select(model, [batch], None, fg.TopK(0.01))
    exec(before, names)
    was = model.weight.detach().clone()
    exec(after, names)
    moved = int((model.weight != was).sum())
    assert 0 < moved <= 2


def test_every_figure_is_the_committed_measurement(script: Callable[[str], ModuleType]) -> None:
    readme_figures = script("readme_figures")
    assert readme_figures.rendered(README) == README
    with pytest.raises(ValueError, match=r"README\.md has 0 marks '<!-- figures: "):
        readme_figures.rendered("nothing")


def test_every_figure_of_the_benchmarks_page_is_the_committed_measurement(script: Callable[[str], ModuleType]) -> None:
    benchmark_tables = script("benchmark_tables")
    page = (ROOT / "benchmarks" / "README.md").read_text()
    assert benchmark_tables.rendered(page) == page
    if not list((ROOT / "benchmarks" / "results").glob("cuda-*")):
        assert "Not measured yet" in benchmark_tables.gpus()
    with pytest.raises(ValueError, match=r"benchmarks/README\.md has 0 marks '<!-- figures: cpu -->'"):
        benchmark_tables.rendered("nothing")


def test_every_figure_of_the_unlearning_degree_page_is_the_committed_measurement(
    script: Callable[[str], ModuleType],
) -> None:
    degree_page = script("degree_page")
    page = (ROOT / "docs" / "unlearning-degree.md").read_text()
    assert degree_page.rendered(page) == page
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", page):
        assert (ROOT / "docs" / picture).is_file(), picture
    with pytest.raises(ValueError, match=r"docs/unlearning-degree\.md has 0 marks '<!-- figures: digits "):
        degree_page.rendered("nothing")


def test_every_figure_of_the_relearning_study_is_the_committed_measurement(
    script: Callable[[str], ModuleType],
) -> None:
    relearning_page = script("relearning_page")
    page = (ROOT / "docs" / "audit.md").read_text()
    assert relearning_page.rendered(page) == page
    with pytest.raises(ValueError, match=r"docs/audit\.md has 0 marks '<!-- figures: machine -->'"):
        relearning_page.rendered("nothing")
    some = {"reached": {"mean": 2 / 3}, "steps": {"mean": 150.0, "std": 50.0}}
    assert relearning_page.steps(some, 200) == "≥ 150±50"


def test_every_figure_of_the_page_on_choosing_k_is_the_committed_measurement(
    script: Callable[[str], ModuleType],
) -> None:
    tune_page = script("tune_page")
    page = (ROOT / "docs" / "choosing-k.md").read_text()
    assert tune_page.rendered(page) == page
    with pytest.raises(ValueError, match=r"docs/choosing-k\.md has 0 marks '<!-- figures: machine -->'"):
        tune_page.rendered("nothing")


@pytest.mark.parametrize(
    ("about", "changed"),
    [
        ("machine", lambda found: found["machine"].update(processor="another")),
        ("date", lambda found: found.update(date="2026-01-01")),
        ("seeds", lambda found: found["configuration"].update(seeds=[1, 2])),
        ("training", lambda found: found["configuration"]["training"].update(epochs=1)),
        ("training images", lambda found: found["tasks"][0]["sizes"].update(forget=1)),
        ("images held out", lambda found: found["tasks"][-1]["sizes"].update(heldout=1)),
    ],
)
@pytest.mark.parametrize("file", ["tune-digits-class", "tune-digits-mislabel"])
def test_what_the_page_on_choosing_k_says_of_all_measurements_holds_for_each(
    script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    about: str,
    changed: Callable[[dict[str, Any]], None],
    file: str,
) -> None:
    tune_page = script("tune_page")
    read = tune_page.results

    def results(name: str) -> dict[str, Any]:
        found: dict[str, Any] = read(name)
        if name == file:
            changed(found)
        return found

    monkeypatch.setattr(tune_page, "results", results)
    with pytest.raises(ValueError, match=rf"{file}\.json has the {about} .*, but tune-digits\.json .*: measure them"):
        tune_page.machine()


@pytest.mark.parametrize("name", ["compare.md", "cost-model.md"])
def test_every_figure_of_the_comparison_and_of_the_cost_model_is_the_committed_measurement(
    script: Callable[[str], ModuleType], name: str
) -> None:
    comparison_page = script("comparison_page")
    page = (ROOT / "docs" / name).read_text()
    assert comparison_page.rendered(name, page) == page
    assert (ROOT / "docs" / "results" / "compare-digits" / "quality.png").is_file()
    with pytest.raises(ValueError, match=rf"docs/{name} has 0 marks '<!-- figures: digits machine -->'"):
        comparison_page.rendered(name, "nothing")


def test_the_committed_report_is_of_the_committed_results() -> None:
    from fgunlearn.report.comparison import rendered

    folder = ROOT / "docs" / "results" / "compare-digits"
    assert rendered(json.loads((folder / "results.json").read_text())) == (folder / "report.html").read_text()
