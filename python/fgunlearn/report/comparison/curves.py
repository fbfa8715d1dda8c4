"""Plots with a panel for each model or figure: scores of the attack, sweeps of an option, learning curves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from fgunlearn.report.comparison.axes import Axis, frame, padded, padded_log
from fgunlearn.report.comparison.readings import OTHERS, OURS, Model, Scenario, Stat, found, interval, number
from fgunlearn.report.comparison.rows import has_edges, three_models
from fgunlearn.report.comparison.scatter import ends
from fgunlearn.report.comparison.svg import Drawing, fitting
from fgunlearn.report.comparison.wording import significant, tick

PANEL = 300.0
"""Width, px: fits a phone, and three fit a page."""

_SHAPES = ("circle", "diamond", "square", "triangle")
_MOST_PANELS = 6


def scores(scenario: Scenario, name: str) -> list[str]:
    """The scores that membership inference goes by, of the forget data and of data never seen: a panel a model."""
    chosen = [(label, model) for label, model in three_models(scenario) if any(map(has_edges, model.runs))]
    runs = [next(run for run in model.runs if has_edges(run)) for _, model in chosen]
    shares = [share for run in runs for part in ("forget", "unseen") for share in _numbers(run["scores"].get(part))]
    highest = max(shares, default=0.0)
    panels = []
    for i, ((label, model), run) in enumerate(zip(chosen, runs, strict=True)):
        edges = _numbers(run["scores"]["edges"])
        drawing = Drawing(
            PANEL,
            250.0,
            f"{name}-{i}",
            f"{scenario.title}: attack scores on {label}",
            f"{model.name}: histograms of log(p / (1 - p)) of the true class on forget data and on never-seen data.",
        )
        x = Axis(edges[0], max(edges[-1], edges[0] + 1e-9), 40.0, PANEL - 6.0)
        y = Axis(0.0, max(100.0 * highest * 1.08, 1e-9), 206.0, 52.0)
        frame(drawing, x, y, "log(p / (1 \u2212 p)) of the true class", "% of samples")
        for part, style in (("unseen", "unseen"), ("forget", "forget")):
            steps = _steps(edges, _numbers(run["scores"].get(part)), x, y)
            if steps:
                drawing.path([(steps[0][0], y.start), *steps, (steps[-1][0], y.start)], f"area {style}", closed=True)
                drawing.path(steps, f"curve {style}")
        auc = interval(run, "mia", "loss", "auc")
        drawing.text(2, 14, fitting(label, 130.0, bold=True), "strong")
        if auc is not None:
            text = f"AUC {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]"
            drawing.text(PANEL - 6, 14, text, "small", "end")
        panels.append(drawing.markup())
    return panels


def _numbers(values: Any) -> list[float]:
    return [n for n in map(number, values if isinstance(values, list) else []) if n is not None]


def _steps(edges: Sequence[float], shares: Sequence[float], x: Axis, y: Axis) -> list[tuple[float, float]]:
    return [
        (x.at(edge), y.at(100.0 * share))
        for share, pair in zip(shares, itertools.pairwise(edges), strict=False)
        for edge in pair
    ]


def sweep(scenario: Scenario, option: str, name: str, width: float, style: str) -> list[str]:
    """Average gap and acceleration over the values of an option: a panel each; none without enough values."""
    bases = scenario.swept[option]
    panels = []
    for figure, label, limit in (
        ("average_gap", "\u2193 average gap, points", scenario.limits.get("average gap")),
        ("acceleration", "\u2191 acceleration, times", None),
    ):
        courses = {
            base: [(value, s) for value, model in places if (s := model.stat(figure)) is not None]
            for base, places in bases.items()
        }
        courses = {base: course for base, course in courses.items() if course}
        if courses:
            panel = f"{name}-{figure.replace('_', '-')}"
            panels.append(_sweep_panel(scenario, option, panel, label, courses, limit, width, style))
    return panels


def _sweep_panel(
    scenario: Scenario,
    option: str,
    name: str,
    label: str,
    courses: dict[str, list[tuple[float, Stat]]],
    limit: float | None,
    width: float,
    style: str,
) -> str:
    height = 280.0
    drawing = Drawing(
        width,
        height,
        name,
        f"{scenario.title}: {label[2:]} over {option}",
        "; ".join(
            f"{base}: " + ", ".join(f"{significant(figure.mean)} at {tick(value)}" for value, figure in course)
            for base, course in courses.items()
        ),
        style,
    )
    values = sorted({value for course in courses.values() for value, _ in course})
    heights = [end for course in courses.values() for _, figure in course for end in ends(figure, 0.0)]
    log = values[0] > 0.0 and values[-1] / values[0] >= 10.0
    x = Axis(*(padded_log(values, 1.15) if log else padded(values, 0.05)), 40.0, width - 8.0, log)
    top = max([*heights, *([] if limit is None else [limit])])
    y = Axis(0.0, 1.08 * top if top > 0 else 1.0, height - 48.0, 34.0)
    if limit is not None:
        drawing.rect(x.start, y.at(limit), x.end - x.start, y.start - y.at(limit), "good")
    frame(drawing, x, y, f"{option} (share of the parameters)" if option == "ratio" else option, label, values)
    if limit is not None:
        drawing.line(x.start, y.at(limit), x.end, y.at(limit), "limit")
    for i, (base, course) in enumerate(courses.items()):
        series = f"series{i % len(_SHAPES)}"
        drawing.path([(x.at(value), y.at(figure.mean)) for value, figure in course], f"curve {series}")
        for value, figure in course:
            low, high = ends(figure, 0.0)
            drawing.line(x.at(value), y.at(low), x.at(value), y.at(high), f"whisker {series}")
            tip = f"{base}, {option} {tick(value)}: {significant(figure.mean)}"
            drawing.mark(_SHAPES[i % len(_SHAPES)], x.at(value), y.at(figure.mean), f"mark {series}", tip, 4.5)
    return drawing.markup()


def sweep_legend(scenario: Scenario, option: str) -> list[tuple[str, str, str]]:
    """Shape, style and name of every base in :func:`sweep`."""
    return [
        (_SHAPES[i % len(_SHAPES)], f"mark series{i % len(_SHAPES)}", base)
        for i, base in enumerate(scenario.swept[option])
    ]


def learning(scenario: Scenario, name: str) -> list[str]:
    """Losses on D_r and D_u in every epoch, a thin line for each seed: this package's methods and the best other."""
    ours = [model for model in scenario.named if model.group == OURS]
    ours.sort(key=lambda model: model is not scenario.best_ours)
    others = [model for model in scenario.named if model.group == OTHERS and model is scenario.best_others]
    chosen = [model for model in [*ours[: _MOST_PANELS - len(others)], *others] if _histories(model)]
    return [_learning_panel(scenario, model, f"{name}-{i}") for i, model in enumerate(chosen)]


def _histories(model: Model) -> list[list[dict[str, Any]]]:
    histories = (run.get("history") for run in model.runs)
    return [
        [epoch for epoch in history if isinstance(epoch, dict)]
        for history in histories
        if isinstance(history, list) and any(_loss(epoch, part) is not None for epoch in history for part in _LOSSES)
    ]


_LOSSES = {"retain_loss": "retain", "forget_loss": "forget"}


def _loss(epoch: Any, part: str) -> float | None:
    return number(found(epoch, part))


def _learning_panel(scenario: Scenario, model: Model, name: str) -> str:
    histories = _histories(model)
    every = [
        loss for history in histories for epoch in history for p in _LOSSES if (loss := _loss(epoch, p)) is not None
    ]
    log = min(every) > 0.0 and max(every) / min(every) > 20.0
    drawing = Drawing(
        PANEL,
        240.0,
        name,
        f"{scenario.title}: learning curves of {model.name}",
        f"Loss on the retain and the forget data in each epoch, {len(histories)} seeds.",
    )
    epochs = max(len(history) for history in histories)
    x = Axis(0.7, epochs + 0.3, 44.0, PANEL - 8.0)
    y = Axis(*(padded_log(every) if log else padded([0.0, *every], least=1e-3)), 194.0, 50.0, log)
    shown = [tick_ for tick_ in x.ticks(30.0) if tick_ == int(tick_) and tick_ >= 1] if epochs > 1 else [1.0]
    frame(drawing, x, y, "epoch", "loss" + (" (logarithmic)" if log else ""), shown)
    drawing.text(2, 14, fitting(model.name, PANEL - 10.0, bold=True), "strong", tip=model.name)
    for history in histories:
        for part, style in _LOSSES.items():
            points = [
                (x.at(i), y.at(loss), loss, number(epoch.get("learning_rate")))
                for i, epoch in enumerate(history, 1)
                if (loss := _loss(epoch, part)) is not None
            ]
            drawing.path([(px, py) for px, py, _, _ in points], f"curve {style}")
            for px, py, loss, rate in points:
                at = "" if rate is None else f", learning rate {significant(rate)}"
                shape = "circle" if style == "retain" else "diamond"
                drawing.mark(shape, px, py, f"mark {style}", f"{part.replace('_', ' ')} {significant(loss)}{at}", 3.2)
    return drawing.markup()
