"""The main plot of a comparison, for a README."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from compared import BASELINES, EVERY, results
from fgunlearn.report import save
from fgunlearn.report.comparison import main_figure

matplotlib = pytest.importorskip("matplotlib")

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def names_in(figure: Figure, panel: int = 0) -> set[str]:
    return {text.get_text() for text in figure.axes[panel].texts}


@pytest.mark.parametrize("scenarios", [1, 2, 3, 4])
def test_there_is_a_panel_for_each_scenario_on_logarithmic_axes(scenarios: int) -> None:
    figure = main_figure(results(scenarios=tuple(f"random-0.{i}" for i in range(1, 1 + scenarios))))
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in shown] == [f"forget random-0.{i}" for i in range(1, 1 + scenarios)]
    for axes in shown:
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert "acceleration" in axes.get_xlabel()
    assert "average gap" in shown[0].get_ylabel()


def test_ours_differ_from_the_others_in_colour_and_in_shape() -> None:
    figure = main_figure(results(("topk", "finetune"), seeds=(0,)))
    marks = [line for line in figure.axes[0].lines if line.get_marker() in ("o", "D") and len(line.get_xdata())]
    assert {(line.get_marker(), line.get_color()) for line in marks} == {("o", "#0072b2"), ("D", "#d55e00")}


def test_every_method_but_those_of_a_sweep_is_named_and_the_limits_are_drawn() -> None:
    figure = main_figure(results())
    texts = names_in(figure)
    assert {"topk", "randomk", "random_topk", "retrain", *BASELINES} <= texts
    assert "limit: average gap 1" in texts
    assert "doing nothing (source)" in texts
    axes = figure.axes[0]
    assert 1.0 in [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert 10.0 in [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]


@pytest.mark.parametrize("same", [{}, {"average_gap": 0.9, "acceleration": 9.5}])
def test_no_label_lies_on_another(same: dict[str, Any]) -> None:
    figure = main_figure(results(scenarios=("a", "b"), **dict.fromkeys(EVERY, same)))
    figure.canvas.draw()
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert len(boxes) > 8
        assert not [1 for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]


def test_the_same_results_give_the_same_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(main_figure(results()), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").stat().st_size < 300_000


def test_a_name_with_a_formula_in_it_is_text(tmp_path: Path) -> None:
    save(main_figure(results(("topk", "topk:recipe=$\\nonsense$"))), tmp_path / "figure.png")


def test_results_without_a_method_are_refused() -> None:
    with pytest.raises(ValueError, match="no method with an average gap"):
        main_figure(results(("ssd",), ssd={"failed": "diverged"}))


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'fgunlearn\[report\]'"):
        main_figure(results(("topk",)))
