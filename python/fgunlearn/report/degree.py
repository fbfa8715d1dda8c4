"""Figures of the study of the unlearning degree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fgunlearn.experiment.degree.settings import SETTINGS
from fgunlearn.experiment.degree.shifts import GAN, PLAIN
from fgunlearn.experiment.degree.trial import SOURCE
from fgunlearn.report.drawing import BLUE, GREY, ORANGE, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "oPsD^vX*"
_COLOURS = ("#7f7f7f", "#000000", "#555555", "#0072b2", "#56b4e9", "#009e73", "#d55e00", "#cc79a7")
POINTS = 100.0
"""Percentage points in one: figures and tables show differences of accuracies in those."""


def shifts_figure(results: dict[str, Any]) -> Figure:
    """UD_net of the retrained model under every shift: a line per seed, its 95% interval, one panel per setting.

    A shift is of use where the line stays right of 0 in a setting in which the source overfits the forget data.

    Args:
        results: of :func:`fgunlearn.experiment.degree.study.run`.
    """
    with drawing():
        from matplotlib.figure import Figure

        names = results["configuration"]["settings"]
        figure = Figure(figsize=(4.0 * len(names) + 1.4, 3.6), layout="constrained")
        panels: Sequence[Axes] = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for panel, name in zip(panels, names, strict=True):
            tasks = [task for task in results["tasks"] if task["setting"] == name]
            shifts = [row["name"] for row in tasks[0]["shifts"]]
            for row, shift in enumerate(shifts):
                colour = BLUE if shift == GAN else ORANGE if shift == PLAIN else GREY
                for place, task in enumerate(tasks):
                    net = task["shifts"][row]["retrained"]["net"]
                    height = -row + 0.18 * (0.5 * (len(tasks) - 1) - place)
                    panel.plot([POINTS * net["low"], POINTS * net["high"]], [height, height], color=colour, lw=1.0)
                    panel.plot(POINTS * net["value"], height, "o", color=colour, ms=3.5)
            panel.axvline(0.0, color="black", lw=0.6)
            panel.set_title(SETTINGS[name].title)
            panel.set_xlabel("UD_net of the retrained model, points")
            panel.set_yticks([-row for row in range(len(shifts))], ["no shift" if s == PLAIN else s for s in shifts])
        return figure


def methods_figure(results: dict[str, Any]) -> Figure:
    """UD_net of every model against its distance to the retrained one: small marks are seeds, large ones their means.

    Where the shifted data tells models apart, those that forgot lie as high as the retrained model, and those that did
    not lie at 0.

    Args:
        results: of :func:`fgunlearn.experiment.degree.study.run`.
    """
    with drawing():
        from matplotlib.figure import Figure

        names = results["configuration"]["settings"]
        figure = Figure(figsize=(4.0 * len(names) + 1.4, 5.6), layout="constrained")
        panels = figure.subplots(2, len(names), squeeze=False, sharex="col", sharey="col")
        for column, name in enumerate(names):
            tasks = [task for task in results["tasks"] if task["setting"] == name]
            for row, shift in enumerate((PLAIN, GAN)):
                _methods_panel(panels[row][column], tasks, shift)
                data = "no shift" if shift == PLAIN else GAN
                panels[row][column].set_title(f"{SETTINGS[name].title}: {data}")
            panels[1][column].set_xlabel("JS divergence from the retrained model, nats")
        for row in range(2):
            panels[row][0].set_ylabel("UD_net, points")
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False)
        return figure


def _methods_panel(panel: Axes, tasks: Sequence[dict[str, Any]], shift: str) -> None:
    panel.axhline(0.0, color="black", lw=0.6)
    for i, model in enumerate(tasks[0]["methods"]):
        found = [task["methods"][i] for task in tasks]
        x = [f["distance"] for f in found]
        y = [POINTS * f["degree"][shift]["net"]["value"] for f in found]
        look: dict[str, Any] = {"marker": _MARKERS[i], "color": _COLOURS[i], "linestyle": "none"}
        panel.plot(x, y, ms=3.0, alpha=0.45, **look)
        name = "source (0 by definition)" if model["name"] == SOURCE else model["name"]
        panel.plot(sum(x) / len(x), sum(y) / len(y), ms=7.0, label=name, markeredgecolor="white", **look)
