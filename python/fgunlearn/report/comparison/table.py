"""The summary table: what each column says, and which row is best in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fgunlearn.report.comparison.readings import (
    OURS,
    REFERENCE,
    RETRAINED,
    Model,
    Scenario,
    Stat,
    found,
    interval,
    number,
)
from fgunlearn.report.comparison.wording import PLUS_MINUS, POINTS, TIMES, decimal, significant

Distance = Callable[[Model, "Model | None"], "float | None"]
"""How far a model is from the best possible in a column, given the retrained one; None where it can't be told."""


@dataclass(frozen=True)
class Column:
    """A column: its name, what it means, the path of its figure, and what is best in it.

    ``second`` is the path of the figure below the first, shown with a sign, in the same unit. ``bootstrap`` columns
    have an interval over samples in every seed's row.
    """

    head: str
    meaning: str
    path: tuple[str, ...]
    places: int | None
    distance: Distance | None = None
    scale: float = 1.0
    suffix: str = ""
    second: tuple[str, ...] = ()
    bootstrap: bool = False

    def text(self, value: float, signed: bool = False) -> str:
        """A figure as it stands in this column."""
        if self.places is None:
            return significant(value * self.scale) + self.suffix
        return decimal(value * self.scale, self.places, signed) + self.suffix


@dataclass(frozen=True)
class Cell:
    """What stands in a place of the table; empty texts where there is nothing to say."""

    text: str
    spread: str = ""
    below: str = ""
    tip: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A row of the table. ``fits`` is whether it keeps to all limits; None where that was not asked."""

    model: Model
    cells: tuple[Cell, ...]
    fits: bool | None
    missed: str
    failed: str

    @property
    def name(self) -> tuple[str, ...]:
        """The name in pieces between which a line may break."""
        return tuple(re.findall(r"[^:,=]+[:,=]*|[:,=]+", self.model.name))


def _size(*path: str) -> Distance:
    """Of the mean over the seeds; of a gap the mean of its sizes, for opposite signs make no small gap."""
    gap, sized = path[0].startswith("gap_"), ("gap_sizes", path[0].removeprefix("gap_"))

    def distance(model: Model, _: Model | None) -> float | None:
        figure = (model.stat(*sized) if gap else None) or model.stat(*path)
        return None if figure is None else abs(figure.mean)

    return distance


def _to(aim: float, *path: str) -> Distance:
    def distance(model: Model, _: Model | None) -> float | None:
        figure = model.stat(*path)
        return None if figure is None else abs(figure.mean - aim)

    return distance


def _to_retrained(*path: str) -> Distance:
    def distance(model: Model, retrained: Model | None) -> float | None:
        figure, aim = model.stat(*path), None if retrained is None else retrained.stat(*path)
        return None if figure is None or aim is None else abs(figure.mean - aim.mean)

    return distance


def _largest(*path: str) -> Distance:
    def distance(model: Model, _: Model | None) -> float | None:
        figure = model.stat(*path)
        return None if figure is None else -figure.mean

    return distance


def _accuracy(part: str, head: str, data: str) -> Column:
    return Column(
        f"acc {head}",
        f"Accuracy on {data}, %; below it the gap to the retrained model, points. Best: the smallest gap.",
        (f"accuracy_{part}",),
        1,
        _size(f"gap_{part}"),
        POINTS,
        second=(f"gap_{part}",),
    )


COLUMNS = (
    Column(
        "avg gap",
        "Average gap: mean of the absolute gaps to the retrained model in the three accuracies and in membership "
        "inference, points. Best: the smallest.",
        ("average_gap",),
        2,
        _size("average_gap"),
    ),
    Column(
        "speed",
        "Acceleration: time to retrain over time to unlearn, measured in one run. Best: the largest.",
        ("acceleration",),
        None,
        _largest("acceleration"),
        suffix=TIMES,
    ),
    _accuracy("forget", "D_u", "the forget data"),
    _accuracy("retain", "D_r", "the retain data"),
    _accuracy("test", "D_t", "test data never trained on"),
    Column(
        "ToW",
        "Tug of war: product of (1 \u2212 |accuracy gap|) over the three parts. The retrained model has 1. Best: the "
        "largest.",
        ("tug_of_war",),
        3,
        _to(1.0, "tug_of_war"),
    ),
    Column(
        "MIA AUC",
        "How well the loss tells forget data from never-seen data, 0.5 is not at all; below it the gap to the "
        "retrained model's. Best: the smallest gap; an AUC far below 0.5 gives forget data away just as well.",
        ("mia", "loss", "auc"),
        3,
        _size("gap_mia"),
        second=("gap_mia",),
        bootstrap=True,
    ),
    Column(
        "worst MIA",
        "The gap to the retrained model in AUC of the attack that tells the two apart best. Best: nearest to 0.",
        ("gap_mia_worst",),
        3,
        _size("gap_mia_worst"),
    ),
    Column(
        "FR",
        "Forgetting rate: net share of the forget data's members on the source that are no longer judged members. "
        "Best: nearest to the retrained model's.",
        ("forgetting_rate",),
        3,
        _to_retrained("forgetting_rate"),
    ),
    Column(
        "MRR",
        "Memory retention rate: share of the retain data's members on the source that are still judged members. Best: "
        "nearest to the retrained model's.",
        ("memory_retention_rate",),
        3,
        _to_retrained("memory_retention_rate"),
    ),
    Column(
        "JS",
        "Jensen-Shannon divergence from the retrained model's predictions on test data, nats. Best: the smallest.",
        ("js_divergence",),
        4,
        _size("js_divergence"),
    ),
    Column(
        "UD_net",
        "Net unlearning degree on shifted data, points: how much more accuracy was lost on forget than on test data. "
        "Best: nearest to the retrained model's; more is not better.",
        ("unlearning_degree",),
        1,
        _to_retrained("unlearning_degree"),
        POINTS,
        bootstrap=True,
    ),
    Column(
        "relearn",
        "Steps to learn the forget data again, over those of the retrained model. Best: nearest to 1; below it traces "
        "are left.",
        ("relearn_ratio",),
        2,
        _to(1.0, "relearn_ratio"),
    ),
    Column(
        "NoMUS",
        "Half the test accuracy and half how useless membership inference is, in [0, 1]. Best: nearest to the "
        "retrained model's.",
        ("nomus",),
        3,
        _to_retrained("nomus"),
    ),
    Column(
        "time",
        "Seconds of unlearning, of training for source and retrained. Best: the least.",
        ("seconds",),
        None,
        _size("seconds"),
        suffix=" s",
    ),
    Column(
        "predicted",
        "The acceleration that the cost model predicts; below it how far off that is. Says nothing of quality, so none "
        "is marked.",
        ("predicted_acceleration",),
        None,
        suffix=TIMES,
    ),
)


def rows(scenario: Scenario) -> list[Row]:
    """The rows of a scenario's table, in the order of the results, the best in each column marked."""
    retrained = scenario.model(RETRAINED)
    best = [_best(column, scenario.models, retrained) for column in COLUMNS]
    return [
        Row(
            model=model,
            cells=tuple(_cell(column, model, model.name in names) for column, names in zip(COLUMNS, best, strict=True)),
            fits=None if model.missed is None else not model.missed,
            missed=", ".join(model.missed or ()),
            failed=_failure(model),
        )
        for model in scenario.models
    ]


def grouped(scenario: Scenario) -> list[tuple[str, list[Row]]]:
    """The same in groups: what to compare with, this package's methods, the sweeps over their options, the others."""
    swept = {model.name for bases in scenario.swept.values() for base in bases.values() for _, model in base}
    groups: dict[str, list[Row]] = {"To compare with": [], "Ours": [], "Ours, one option varied": [], "Others": []}
    for row in rows(scenario):
        if row.model.group == REFERENCE:
            groups["To compare with"].append(row)
        elif row.model.group == OURS:
            groups["Ours, one option varied" if row.model.name in swept else "Ours"].append(row)
        else:
            groups["Others"].append(row)
    return [(name, members) for name, members in groups.items() if members]


def _best(column: Column, models: Sequence[Model], retrained: Model | None) -> set[str]:
    """The names of those nearest to what is best in the column: several where they are equally near."""
    distances: dict[str, float] = {}
    for model in models:
        if column.distance is not None and model.group != REFERENCE and model.failed is None:
            distance = column.distance(model, retrained)
            if distance is not None:
                distances[model.name] = distance
    if len(distances) < 2:  # the only one is no winner
        return set()
    return {name for name, distance in distances.items() if distance <= min(distances.values()) + 1e-9}


def _cell(column: Column, model: Model, best: bool) -> Cell:
    figure = model.stat(*column.path)
    if model.failed is not None or figure is None:
        return Cell("")
    second = model.stat(*column.second) if column.second else None
    below = "" if second is None else column.text(second.mean, signed=True) + _spread(column, second)
    error = model.stat("prediction_error")
    if column.path == ("predicted_acceleration",) and error is not None:
        below = f"{decimal(100.0 * error.mean, 0, signed=True)}%"
    spread = _spread(column, figure)
    tip = ""
    if column.bootstrap:
        seeds = _intervals(column, model)
        tip = "; ".join(seeds)
        if len(seeds) == 1 and not spread:  # over samples, as there are no seeds to spread over
            spread = " " + seeds[0].partition(" ")[2]
    return Cell(column.text(figure.mean), spread, below, tip, best)


def _spread(column: Column, figure: Stat) -> str:
    if figure.std is None:
        return ""
    scaled = figure.std * column.scale
    text = significant(scaled, 2) if column.places is None else decimal(scaled, column.places)
    return f" {PLUS_MINUS}{text}"


def _intervals(column: Column, model: Model) -> list[str]:
    return [text for run in model.runs if (text := with_interval(run, column.path, column.places or 0, column.scale))]


def with_interval(run: object, path: Sequence[str], places: int, scale: float = 1.0) -> str:
    """A seed's figure with its 95% interval over samples; empty without one."""
    figure = interval(run, *path)
    if figure is None:
        return ""
    value, low, high = (decimal(v * scale, places) for v in (figure.value, figure.low, figure.high))
    return f"{value} [{low}, {high}]"


def _failure(model: Model) -> str:
    if model.failed is None:
        return ""
    failures = number(model.summary.get("failures"))
    return (f"failed on {failures:.0f} of {len(model.runs)} seeds: " if failures else "failed: ") + model.failed


SEED_COLUMNS = ("average gap", "AUC, loss attack", "TPR at 1% FPR", "AUC, logistic attack", "UD_net, points", "speed")


def seed_rows(scenario: Scenario) -> list[tuple[str, str, tuple[str, ...]]]:
    """Name, seed and figures with their intervals of every row that was measured: one for each model and seed."""
    return [
        (
            model.name,
            str(run.get("seed")),
            (
                _number(run, 2, "average_gap"),
                with_interval(run, ("mia", "loss", "auc"), 3),
                with_interval(run, ("mia", "loss", "tpr"), 3),
                with_interval(run, ("mia", "logistic", "auc"), 3),
                with_interval(run, ("unlearning_degree",), 1, POINTS),
                _number(run, 1, "acceleration"),
            ),
        )
        for model in scenario.models
        for run in model.runs
        if "failed" not in run
    ]


def _number(run: object, places: int, *path: str) -> str:
    value = number(found(run, *path))
    return "" if value is None else decimal(value, places)
