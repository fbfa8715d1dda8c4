"""The main plot of a comparison with matplotlib: for a README, where there is no page around it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fgunlearn.report.comparison.labels import Box, Label, around, nearest, placed
from fgunlearn.report.comparison.readings import ACCELERATION_LIMIT, OURS, REFERENCE, Scenario, scenarios
from fgunlearn.report.comparison.scatter import Dot, doing_nothing, dots, ends, limit_of, reach
from fgunlearn.report.comparison.wording import tick
from fgunlearn.report.drawing import BLUE, GREEN, GREY, ORANGE, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PER_ROW = 3
_PANEL = (4.6, 4.1)  # inches
_LOOKS: dict[str, dict[str, Any]] = {
    "ours": {"marker": "o", "color": BLUE, "markeredgecolor": "white", "markeredgewidth": 0.6},
    "others": {"marker": "D", "color": ORANGE, "markerfacecolor": "white", "markeredgewidth": 1.4},
    "reference": {"marker": "x", "color": GREY, "markeredgewidth": 1.8},
}
_LEGEND = {"ours": "ours", "others": "others", "reference": "retraining again"}


def main_figure(results: dict[str, Any]) -> Figure:
    """Quality against acceleration, one panel per scenario: how far from retraining, and how much faster than it.

    Good is low and to the right, in the shaded corner, which keeps to both limits.

    Args:
        results: of :func:`fgunlearn.experiment.compare.comparison.run`, or what its ``results.json`` holds.

    Raises:
        ImportError: there is no matplotlib.
        ValueError: the results have no summary, or no method with both figures.
    """
    shown = [(scenario, points) for scenario in scenarios(results) if (points := dots(scenario))]
    if not shown:
        raise ValueError("results hold no method with an average gap and an acceleration")
    with drawing():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        columns = min(len(shown), _PER_ROW)
        rows = math.ceil(len(shown) / columns)
        figure = Figure(figsize=(_PANEL[0] * columns + 0.3, _PANEL[1] * rows + 0.4), layout="constrained", dpi=150)
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel in panels[len(shown) :]:
            panel.set_axis_off()
        for place, (panel, (scenario, points)) in enumerate(zip(panels, shown, strict=False)):
            _draw(panel, scenario, points)
            panel.set_xlabel("acceleration over retraining, times (faster \u2192)")
            if place % columns == 0:
                panel.set_ylabel("average gap to retraining, points (\u2190 better)")
        groups = [g for g in _LOOKS if any(d.model.group == g for _, points in shown for d in points)]
        handles = [panels[0].plot([], [], linestyle="none", markersize=6, **_LOOKS[group])[0] for group in groups]
        names = [_LEGEND[group] for group in groups]
        figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
        figure.draw_without_rendering()  # so that places in px are known
        for panel, (scenario, points) in zip(panels, shown, strict=False):
            _name(panel, scenario, points)
        figure.set_layout_engine("none")  # labels were placed for this very layout
        return figure


def _draw(panel: Axes, scenario: Scenario, points: list[Dot]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    x_range, y_range = reach(scenario, points)
    limit = limit_of(scenario)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlim(*x_range)
    panel.set_ylim(*y_range)
    for axis, (low, high) in ((panel.xaxis, x_range), (panel.yaxis, y_range)):
        axis.set_major_locator(
            LogLocator(subs=(1, 2, 5) if high / low < 300 else (1, 3) if high / low < 2000 else (1,))
        )
        axis.set_major_formatter(FuncFormatter(lambda value, _: tick(round(value, 9))))
        axis.set_minor_formatter(NullFormatter())
        axis.set_tick_params(which="minor", length=0)
    panel.fill_between([ACCELERATION_LIMIT, x_range[1]], y_range[0], limit, color=GREEN, alpha=0.13, linewidth=0)
    panel.axhline(limit, color=GREEN, lw=1.0, ls="--")
    panel.axvline(ACCELERATION_LIMIT, color=GREEN, lw=1.0, ls="--")
    nothing = doing_nothing(scenario)
    if nothing is not None:
        panel.axhline(max(nothing, y_range[0]), color=GREY, lw=1.0, ls=":")
    panel.grid(alpha=0.2, which="major")
    panel.set_title(scenario.title)
    for dot in sorted(points, key=lambda dot: dot.named):
        look = _LOOKS[dot.model.group]
        at = dot.acceleration.mean, max(dot.gap.mean, y_range[0])
        if dot.named:
            whisker = {"color": look["color"], "lw": 0.9, "alpha": 0.6}
            panel.plot(ends(dot.acceleration, x_range[0]), [at[1]] * 2, **whisker)
            panel.plot([at[0]] * 2, ends(dot.gap, y_range[0]), **whisker)
        alpha = 1.0 if dot.named else 0.45
        panel.plot(*at, linestyle="none", markersize=6.5 if dot.named else 3.5, alpha=alpha, **look)


def _name(panel: Axes, scenario: Scenario, points: list[Dot]) -> None:
    """Names beside the dots and the lines, none on another."""
    inch = panel.figure.dpi
    unit = inch / 72.0
    frame = panel.get_window_extent()
    bounds = Box(frame.x0 + unit, frame.y0 + unit, frame.x1 - unit, frame.y1 - unit)
    low = panel.get_ylim()[0]
    places: dict[str, tuple[float, float]] = {}
    for dot in points:
        px, py = panel.transData.transform((dot.acceleration.mean, max(dot.gap.mean, low)))
        places[dot.model.name] = float(px), float(py)
    marks = []
    for dot in points:
        r, (px, py) = unit * (4.5 if dot.named else 2.5), places[dot.model.name]
        marks.append(Box(px - r, py - r, px + r, py + r))
    covered = _lines(panel, scenario, points, bounds)
    labels: list[Label] = []
    texts: list[tuple[str, str, float]] = []
    limit, nothing = limit_of(scenario), doing_nothing(scenario)
    lines = [(f"limit: average gap {tick(limit)}", limit, GREEN)]
    lines += [] if nothing is None else [("doing nothing (source)", max(nothing, low), GREY)]
    for text, gap, colour in lines:
        width, height = _size(panel, text, 7.0)
        y = panel.transData.transform((1.0, gap))[1]
        steps = [
            bounds.left + 3 * unit + width / 2 + i * (bounds.right - bounds.left - width - 6 * unit) / 12
            for i in range(13)
        ]
        labels.append(Label(width, height, [(x, y + s * (height / 2 + unit)) for x in steps for s in (1, -1)]))
        texts.append((text, "#00694c" if colour == GREEN else "#555555", 7.0))
    for dot in sorted(points, key=lambda d: (d.model.group != OURS, -d.acceleration.mean)):
        if dot.named:
            width, height = _size(panel, dot.model.name, 7.5)
            point = places[dot.model.name]
            labels.append(Label(width, height, around(*point, width, height, 4.5 * unit, 0.6 * unit), point))
            colour = {"ours": "#005a8e", REFERENCE: "#555555"}.get(dot.model.group, "#9c4400")
            texts.append((dot.model.name, colour, 7.5))
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.0, foreground="white", alpha=0.8)]  # where a name lies on a whisker
    back = panel.transData.inverted()
    for label, centre, (text, colour, size) in zip(labels, placed(labels, marks, covered, bounds), texts, strict=True):
        if centre is None:
            continue
        if label.point is not None:
            end = nearest(label.box(centre), label.point)
            if math.dist(end, label.point) > 10.0 * unit:
                (x1, y1), (x2, y2) = back.transform(label.point), back.transform(end)
                panel.plot([x1, x2], [y1, y2], color=GREY, lw=0.5, zorder=1.5)
        x, y = back.transform(centre)
        # parse_math off: a name is no formula, whatever dollars it has.
        panel.text(
            x, y, text, color=colour, fontsize=size, ha="center", va="center", parse_math=False, path_effects=halo
        )


def _lines(panel: Axes, scenario: Scenario, points: list[Dot], bounds: Box) -> list[Box]:
    """What limits and whiskers cover, px."""
    low, left = panel.get_ylim()[0], panel.get_xlim()[0]
    nothing = doing_nothing(scenario)
    boxes = []
    for gap in [limit_of(scenario)] + ([] if nothing is None else [max(nothing, low)]):
        y = panel.transData.transform((1.0, gap))[1]
        boxes.append(Box(bounds.left, y - 1, bounds.right, y + 1))
    x = panel.transData.transform((ACCELERATION_LIMIT, 1.0))[0]
    boxes.append(Box(x - 1, bounds.top, x + 1, bounds.bottom))
    for dot in points:
        if dot.named:
            (x1, x2), (y1, y2) = ends(dot.acceleration, left), ends(dot.gap, low)
            (x1, y1), (x2, y2) = (panel.transData.transform(corner) for corner in ((x1, y1), (x2, y2)))
            x, y = panel.transData.transform((dot.acceleration.mean, max(dot.gap.mean, low)))
            boxes += [Box(x1, y - 1, x2, y + 1), Box(x - 1, y1, x + 1, y2)]
    return boxes


def _size(panel: Axes, text: str, points: float) -> tuple[float, float]:
    """Width and height of a text, px."""
    shown = panel.text(0.5, 0.5, text, fontsize=points, transform=panel.transAxes, parse_math=False)
    box = shown.get_window_extent()
    shown.remove()
    return box.width + 2.0, box.height + 2.0
