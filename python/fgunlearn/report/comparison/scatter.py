"""The main plot: quality against acceleration, in the page."""

from __future__ import annotations

from dataclasses import dataclass

from fgunlearn.report.comparison.axes import Axis, frame, padded_log
from fgunlearn.report.comparison.labels import Box, Label, around, nearest, placed
from fgunlearn.report.comparison.readings import ACCELERATION_LIMIT, OURS, REFERENCE, SOURCE, Model, Scenario, Stat
from fgunlearn.report.comparison.svg import SMALL, Drawing, fitting, text_width
from fgunlearn.report.comparison.wording import PLUS_MINUS, TIMES, significant, tick, times

LEAST_GAP = 0.03
"""Points: smaller gaps are drawn here, as a logarithmic axis has no 0."""

MARKS = {"ours": "circle", "others": "diamond", "reference": "cross"}


@dataclass(frozen=True)
class Dot:
    """A model with both figures. ``named`` is whether it has a label; the others are small."""

    model: Model
    acceleration: Stat
    gap: Stat
    named: bool


def dots(scenario: Scenario) -> list[Dot]:
    """What is to be shown; the source is no dot, as it takes no time."""
    named = set(scenario.named)
    found = []
    for model in scenario.models:
        acceleration, gap = model.stat("acceleration"), model.stat("average_gap")
        is_point = model.group != REFERENCE or model.method == "retrain"
        if is_point and model.failed is None and acceleration is not None and gap is not None and acceleration.mean > 0:
            found.append(Dot(model, acceleration, gap, model in named))
    return found


def limit_of(scenario: Scenario) -> float:
    """The largest average gap that is allowed, points."""
    return scenario.limits.get("average gap", 1.0)


def reach(scenario: Scenario, shown: list[Dot]) -> tuple[tuple[float, float], tuple[float, float]]:
    """From where to where the axes go: acceleration, and average gap in points."""
    x = [dot.acceleration.mean for dot in shown]
    y = [max(dot.gap.mean, LEAST_GAP) for dot in shown]
    nothing = doing_nothing(scenario)
    y += [] if nothing is None else [max(nothing, LEAST_GAP)]
    return padded_log([*x, 0.8, 2.0 * ACCELERATION_LIMIT], 1.35), padded_log([*y, limit_of(scenario), 0.3], 1.5)


def doing_nothing(scenario: Scenario) -> float | None:
    """The source's average gap: a method above it made things worse."""
    source = scenario.model(SOURCE)
    gap = None if source is None else source.stat("average_gap")
    return None if gap is None else gap.mean


def ends(figure: Stat, least: float) -> tuple[float, float]:
    """A standard deviation to either side, at least ``least``."""
    std = figure.std or 0.0
    return max(figure.mean - std, least), max(figure.mean + std, least)


def quality(scenario: Scenario, name: str, width: float, style: str) -> str | None:
    """Average gap to retraining against acceleration, both logarithmic; None without a method that has both."""
    shown = dots(scenario)
    if not shown:
        return None
    narrow = width < 500
    height = 560.0 if narrow else 500.0
    drawing = Drawing(
        width,
        height,
        name,
        f"{scenario.title}: quality against acceleration",
        "; ".join(f"{d.model.name}: gap {significant(d.gap.mean)}, {times(d.acceleration.mean)}" for d in shown),
        style,
    )
    (x_low, x_high), (y_low, y_high) = reach(scenario, shown)
    x = Axis(x_low, x_high, 40.0, width - 8.0, log=True)
    y = Axis(y_low, y_high, height - 48.0, 34.0, log=True)
    limit = limit_of(scenario)
    drawing.rect(x.at(ACCELERATION_LIMIT), y.at(limit), x.end - x.at(ACCELERATION_LIMIT), y.start - y.at(limit), "good")
    frame(
        drawing, x, y, "acceleration over retraining, times (faster \u2192)", "\u2193 average gap to retraining, points"
    )
    lines = [(f"limit: average gap {tick(limit)}", limit, "limit")]
    nothing = doing_nothing(scenario)
    if nothing is not None:
        lines.append(("doing nothing (source)", nothing, "nothing"))
    for _, gap, kind in lines:
        drawing.line(x.start, y.at(gap), x.end, y.at(gap), kind)
    drawing.line(x.at(ACCELERATION_LIMIT), y.start, x.at(ACCELERATION_LIMIT), y.end, "limit")
    for dot in sorted(shown, key=lambda dot: dot.named):
        _draw(drawing, dot, x, y)
    _name(drawing, shown, lines, x, y, 130.0 if narrow else 260.0)
    return drawing.markup()


def _draw(drawing: Drawing, dot: Dot, x: Axis, y: Axis) -> None:
    group = dot.model.group
    at = x.at(dot.acceleration.mean), y.at(dot.gap.mean)
    tip = f"{dot.model.name}: average gap {_shown(dot.gap)} points, {_shown(dot.acceleration)} times the speed"
    if dot.named:
        for low, high in [ends(dot.acceleration, x.low)]:
            drawing.line(x.at(low), at[1], x.at(high), at[1], f"whisker {group}")
        for low, high in [ends(dot.gap, y.low)]:
            drawing.line(at[0], y.at(low), at[0], y.at(high), f"whisker {group}")
    drawing.mark(MARKS[group], *at, f"mark {group}" + ("" if dot.named else " faint"), tip, 5.5 if dot.named else 3.0)


def _shown(figure: Stat) -> str:
    return significant(figure.mean) + (f" {PLUS_MINUS} {significant(figure.std, 2)}" if figure.std is not None else "")


def _name(
    drawing: Drawing, shown: list[Dot], lines: list[tuple[str, float, str]], x: Axis, y: Axis, longest: float
) -> None:
    """Names at the dots and the lines; a thin line leads to a name that had to go further off."""
    marks = []
    for dot in shown:
        r = 6.5 if dot.named else 3.5
        px, py = x.at(dot.acceleration.mean), y.at(dot.gap.mean)
        marks.append(Box(px - r, py - r, px + r, py + r))
    bounds = Box(x.start + 2, y.end + 2, x.end, y.start - 2)
    covered = [Box(x.start, y.at(gap) - 1, x.end, y.at(gap) + 1) for _, gap, _ in lines]
    covered.append(Box(x.at(ACCELERATION_LIMIT) - 1, y.end, x.at(ACCELERATION_LIMIT) + 1, y.start))
    for dot in shown:
        if dot.named:
            px, py = x.at(dot.acceleration.mean), y.at(dot.gap.mean)
            left, right = map(x.at, ends(dot.acceleration, x.low))
            bottom, top = map(y.at, ends(dot.gap, y.low))
            covered += [Box(left, py - 1, right, py + 1), Box(px - 1, top, px + 1, bottom)]
    labels, texts = [], []
    for text, gap, _ in lines:
        w = text_width(text, SMALL)
        rows = [y.at(gap) + dy for dy in (-8, 10)]
        columns = [x.start + 6 + w / 2 + step * (x.end - x.start - w - 12) / 10 for step in range(11)]
        labels.append(Label(w, 13.0, [(c, row) for c in columns for row in rows]))
        texts.append((text, "small"))
    text = f"limit: {tick(ACCELERATION_LIMIT)}{TIMES}"
    w = text_width(text, SMALL)
    columns = [x.at(ACCELERATION_LIMIT) + dx * (w / 2 + 5) for dx in (1, -1)]
    rows = [y.start - 10 - 14 * step for step in range(int((y.start - y.end - 20) / 14))]
    labels.append(Label(w, 13.0, [(c, row) for row in rows for c in columns]))
    texts.append((text, "small"))
    for dot in sorted(shown, key=lambda d: (d.model.group != OURS, -d.acceleration.mean)):
        if dot.named:
            point = x.at(dot.acceleration.mean), y.at(dot.gap.mean)
            bold = dot.model.group == OURS
            name = fitting(dot.model.name, longest, SMALL, bold)
            w = text_width(name, SMALL, bold)
            labels.append(Label(w, 14.0, around(*point, w, 14.0, 6.0), point))
            texts.append((name, f"small name {dot.model.group}"))
    for label, centre, (text, style) in zip(labels, placed(labels, marks, covered, bounds), texts, strict=True):
        if centre is None:
            continue  # its dot still has a tip, and its row is in the table
        if label.point is not None:
            end = nearest(label.box(centre), label.point)
            if abs(end[0] - label.point[0]) + abs(end[1] - label.point[1]) > 14.0:
                drawing.line(*label.point, *end, "leader")
        drawing.text(centre[0], centre[1] + 4, text, style, "middle")
