"""Plots with a line for each model: accuracy by split, membership inference, time by phase; and of the selection."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from fgunlearn.report.comparison.axes import Axis, numbers_below, padded
from fgunlearn.report.comparison.readings import (
    OURS,
    PARTS,
    RETRAIN,
    RETRAINED,
    SOURCE,
    Model,
    Scenario,
    found,
    interval,
    number,
)
from fgunlearn.report.comparison.scatter import MARKS
from fgunlearn.report.comparison.svg import SMALL, Drawing, fitting, text_width
from fgunlearn.report.comparison.wording import POINTS, decimal, seconds, tick

_ROW = 19.0
MOST_TENSORS = 72
"""That a figure of the selection has lines for."""

_SHAPES = ("circle", "diamond", "square", "triangle")
ROLES = {
    "select": ("select", "importance"),
    "prepare": ("recipe", "forget setup", "teacher", "relabel", "initialise"),
    "perturb": ("perturb", "noise", "dampen"),
    "train": ("repair", "finetune", "train", "scrub", "neggrad", "ascent"),
    "other": (),
}
"""What the phases of all methods are for, so that few colours tell them apart."""


def role(phase: str) -> str:
    """What a phase is for: a key of :data:`ROLES`."""
    return next((name for name, phases in ROLES.items() if phase in phases), "other")


def _name_width(width: float, names: Sequence[str]) -> float:
    """Of the column of names: as the longest asks for, up to a third of the whole."""
    return min(max((text_width(name, SMALL, bold=True) for name in names), default=0.0) + 12.0, 0.34 * width)


def _write_names(drawing: Drawing, models: Sequence[Model], top: float, width: float) -> None:
    for i, model in enumerate(models):
        y = top + _ROW * (i + 0.5)
        if i % 2 == 0:
            drawing.rect(0, y - _ROW / 2, drawing.width, _ROW, "band")
        text = fitting(model.name, width - 10.0, SMALL, model.group == OURS)
        drawing.text(width - 8.0, y + 4, text, f"small name {model.group}", "end", model.name)


def accuracy(scenario: Scenario, name: str, width: float, style: str) -> str | None:
    """Accuracy on D_u, D_r and D_t, a column each, against the retrained model's; None without a figure."""
    models = [m for m in scenario.named if any(m.stat(f"accuracy_{part}") for part in PARTS)]
    if not models:
        return None
    names = _name_width(width, [model.name for model in models])
    top, bottom = 24.0, 24.0 + _ROW * len(models)
    drawing = Drawing(
        width,
        bottom + 42.0,
        name,
        f"{scenario.title}: accuracy by split",
        "Accuracy of every model on the forget, the retain and the test data; the line is the retrained model's.",
        style,
    )
    _write_names(drawing, models, top, names)
    gutter = 40.0 if width > 500 else 16.0
    column = (width - names - 3 * gutter) / 3
    allowed = POINTS * scenario.limits.get("accuracy gap", 0.01)
    for i, (part, label) in enumerate(PARTS.items()):
        start = names + i * (column + gutter) + gutter / 2
        figures = [(model, model.stat(f"accuracy_{part}")) for model in models]
        spread = [POINTS * (f.mean + sign * (f.std or 0.0)) for _, f in figures if f is not None for sign in (-1, 1)]
        if not spread:
            continue
        low, high = padded([max(min(spread), 0.0), min(max(spread), POINTS)], least=2.0)
        x = Axis(low, high, start, start + column)
        reference = scenario.model(RETRAINED)
        aim = None if reference is None else reference.stat(f"accuracy_{part}")
        if aim is not None:
            left, right = (x.at(POINTS * aim.mean + sign * allowed) for sign in (-1, 1))
            drawing.rect(left, top, right - left, bottom - top, "good")
        numbers_below(drawing, x, bottom, top, x.ticks(52.0 if width > 500 else 26.0))
        if aim is not None:
            drawing.line(x.at(POINTS * aim.mean), top, x.at(POINTS * aim.mean), bottom, "aim")
        drawing.text(start + column / 2, top - 9, label if column < 120 else f"{label}: {part} data", "label", "middle")
        for row, (model, figure) in enumerate(figures):
            if figure is None:
                continue
            y = top + _ROW * (row + 0.5)
            left, right = (x.at(POINTS * (figure.mean + sign * (figure.std or 0.0))) for sign in (-1, 1))
            drawing.line(left, y, right, y, f"whisker {model.group}")
            tip = f"{model.name}: {decimal(POINTS * figure.mean, 1)}% on {label}"
            drawing.mark(MARKS[model.group], x.at(POINTS * figure.mean), y, f"mark {model.group}", tip, 4.2)
    drawing.text(width - gutter / 2, bottom + 36, "accuracy, %", "label", "end")
    return drawing.markup()


def membership(scenario: Scenario, name: str, width: float, style: str) -> str | None:
    """AUC of the loss attack on every model, one interval for each seed; None without one."""
    seen = {
        model.name: [f for f in (interval(run, "mia", "loss", "auc") for run in model.runs) if f is not None]
        for model in scenario.named
    }
    models = [model for model in scenario.named if seen[model.name]]
    if not models:
        return None
    names = _name_width(width, [model.name for model in models])
    top, bottom = 10.0, 10.0 + _ROW * len(models)
    drawing = Drawing(
        width,
        bottom + 42.0,
        name,
        f"{scenario.title}: membership inference",
        "AUC of the loss attack on every model, with 95% bootstrap intervals, one for each seed.",
        style,
    )
    _write_names(drawing, models, top, names)
    every = [end for model in models for f in seen[model.name] for end in (f.low, f.high)]
    low, high = padded([*every, 0.5], least=0.1)
    x = Axis(low, high, names + 8.0, width - 10.0)
    reference = scenario.model(RETRAINED)
    aim = None if reference is None else reference.stat("mia", "loss", "auc")
    if aim is not None:
        allowed = scenario.limits.get("MIA gap", 0.02)
        left, right = x.at(aim.mean - allowed), x.at(aim.mean + allowed)
        drawing.rect(left, top, right - left, bottom - top, "good")
    numbers_below(drawing, x, bottom, top, x.ticks(60.0 if width > 500 else 40.0))
    drawing.line(x.at(0.5), top, x.at(0.5), bottom, "limit")
    if aim is not None:
        drawing.line(x.at(aim.mean), top, x.at(aim.mean), bottom, "aim")
    for row, model in enumerate(models):
        figures = seen[model.name]
        for i, figure in enumerate(figures):
            y = top + _ROW * (row + 0.5) + (i - 0.5 * (len(figures) - 1)) * min(5.0, 13.0 / len(figures))
            drawing.line(x.at(figure.low), y, x.at(figure.high), y, f"whisker {model.group}")
            tip = f"{model.name}: AUC {figure.value:.3f}, 95% interval {figure.low:.3f} to {figure.high:.3f}"
            drawing.mark(MARKS[model.group], x.at(figure.value), y, f"mark {model.group}", tip, 2.8)
    drawing.text(x.end, bottom + 36, "AUC of the loss attack (0.5: can't tell)", "label", "end")
    return drawing.markup()


def phases(scenario: Scenario, name: str, width: float, style: str) -> str | None:
    """Where every method's time goes, mean over the seeds; None without a phase."""
    times = {model.name: _phases_of(model) for model in scenario.named if model.method != RETRAIN}
    models = [model for model in scenario.named if times.get(model.name)]
    if not models:
        return None
    names = _name_width(width, [model.name for model in models])
    top, bottom = 30.0, 30.0 + _ROW * len(models)
    drawing = Drawing(
        width,
        bottom + 42.0,
        name,
        f"{scenario.title}: time by phase",
        "; ".join(f"{model.name}: {seconds(sum(times[model.name].values()))}" for model in models),
        style,
    )
    _write_names(drawing, models, top, names)
    longest = max(sum(times[model.name].values()) for model in models)
    x = Axis(0.0, max(longest, 1e-9), names + 2.0, width - 64.0)
    numbers_below(drawing, x, bottom, top)
    for row, model in enumerate(models):
        start = 0.0
        y = top + _ROW * row + 4
        for phase, took in times[model.name].items():
            left, right = x.at(start), x.at(start + took)
            style_of = f"bar {role(phase)}"
            drawing.rect(left, y, right - left, _ROW - 8, style_of, f"{model.name}, {phase}: {seconds(took)}")
            start += took
        drawing.text(x.at(start) + 6, y + 9.5, seconds(start), "small")
    _draw_retraining(drawing, scenario, x, top, bottom)
    drawing.text(x.end, bottom + 36, "seconds", "label", "end")
    return drawing.markup()


def _phases_of(model: Model) -> dict[str, float]:
    """Mean seconds of each phase over the seeds that have it."""
    took: dict[str, list[float]] = {}
    for run in model.runs:
        for phase, value in (run.get("phases") or {}).items():
            if number(value) is not None:
                took.setdefault(str(phase), []).append(float(value))
    return {phase: fmean(values) for phase, values in took.items()}


def _draw_retraining(drawing: Drawing, scenario: Scenario, x: Axis, top: float, bottom: float) -> None:
    """How long retraining takes: a line, or words where that is beyond the edge."""
    reference = scenario.model(RETRAINED)
    took = None if reference is None else reference.stat("seconds")
    if took is None:
        return
    text = f"retraining: {seconds(took.mean)}"
    if took.mean > x.high:
        text += f", {tick(round(took.mean / x.high, 1))} times the width \u2192"
        drawing.text(drawing.width - 4, top - 10, text, "small", "end")
        return
    drawing.line(x.at(took.mean), top - 4, x.at(took.mean), bottom, "aim")
    half = 0.5 * text_width(text, SMALL)
    middle = min(max(x.at(took.mean), half + 2), drawing.width - half - 2)
    drawing.text(middle, top - 10, text, "small", "middle")


def selections(scenario: Scenario) -> list[Model]:
    """Those of this package's methods whose selection is shown: the best first, at most as many as there are marks."""
    with_density = [m for m in scenario.named if m.group == OURS and isinstance(m.summary.get("density"), dict)]
    with_density.sort(key=lambda model: model is not scenario.best_ours)
    return with_density[: len(_SHAPES)]


def density(scenario: Scenario, name: str, width: float, style: str) -> str | None:
    """The selected share of every tensor; None where nothing was selected."""
    models = selections(scenario)
    shares = [{t: s for t in m.summary["density"] if (s := m.stat("density", t)) is not None} for m in models]
    tensors = list(dict.fromkeys(tensor for share in shares for tensor in share))
    if not tensors:
        return None
    if len(tensors) > MOST_TENSORS:
        largest = sorted(tensors, key=lambda t: -shares[0][t].mean if t in shares[0] else 0.0)[:MOST_TENSORS]
        tensors = [tensor for tensor in tensors if tensor in set(largest)]
    row_height = 16.0
    names = _name_width(width, tensors)
    top, bottom = 8.0, 8.0 + row_height * len(tensors)
    drawing = Drawing(
        width,
        bottom + 42.0,
        name,
        f"{scenario.title}: layer density of the selection",
        f"The selected share of {len(tensors)} parameter tensors, by {', '.join(model.name for model in models)}.",
        style,
    )
    highest = max(s.mean for share in shares for s in share.values())
    x = Axis(0.0, max(100.0 * highest * 1.04, 1e-6), names + 6.0, width - 12.0)
    for row, tensor in enumerate(tensors):
        y = top + row_height * (row + 0.5)
        if row % 2 == 0:
            drawing.rect(0, y - row_height / 2, width, row_height, "band")
        drawing.text(names - 6, y + 4, fitting(tensor, names - 8, SMALL), "small", "end", tensor)
    numbers_below(drawing, x, bottom, top)
    for i, (model, share) in reversed(list(enumerate(zip(models, shares, strict=True)))):
        for row, tensor in enumerate(tensors):
            if tensor in share:
                y = top + row_height * (row + 0.5)
                tip = f"{model.name}, {tensor}: {decimal(100.0 * share[tensor].mean, 2)}%"
                drawing.mark(_SHAPES[i], x.at(100.0 * share[tensor].mean), y, f"mark series{i}", tip, 3.8)
    drawing.text(x.end, bottom + 36, "selected, % of the tensor", "label", "end")
    return drawing.markup()


def selection_legend(scenario: Scenario) -> list[tuple[str, str, str]]:
    """Shape, style and name of every method in :func:`density`."""
    return [(_SHAPES[i], f"mark series{i}", model.name) for i, model in enumerate(selections(scenario))]


def three_models(scenario: Scenario) -> list[tuple[str, Model]]:
    """M_s, M_u and M_r, as far as they are there: what is compared everywhere."""
    named = [
        ("M_s, source", scenario.model(SOURCE)),
        ("M_u, best of ours", scenario.best_ours),
        ("M_r, retrained", scenario.model(RETRAINED)),
    ]
    return [(label, model) for label, model in named if model is not None]


def has_edges(run: dict[str, Any]) -> bool:
    """Whether a seed's row has a histogram of scores: two edges or more, all of them numbers."""
    edges = found(run, "scores", "edges")
    return isinstance(edges, list) and len(edges) > 1 and all(number(edge) is not None for edge in edges)
