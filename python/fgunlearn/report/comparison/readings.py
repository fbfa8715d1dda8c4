"""What a comparison's results say, read forgivingly: a figure that is missing, null or NaN is None."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

SOURCE, RETRAINED, RETRAIN = "source", "retrained", "retrain"
REFERENCE, OURS, OTHERS = "reference", "ours", "others"
PARTS = {"forget": "D_u", "retain": "D_r", "test": "D_t"}
ACCELERATION_LIMIT = 10.0
"""A line in figures: times the speed of retraining that an approximation should reach to be worth it."""

_FEWEST_SWEPT = 3  # values of an option, for a curve over it


@dataclass(frozen=True)
class Stat:
    """A figure over the seeds: mean, sample deviation (None with one seed), how many seeds have it."""

    mean: float
    std: float | None = None
    seeds: int = 1


@dataclass(frozen=True)
class Interval:
    """A figure of one seed, and its 95% bootstrap interval over samples."""

    value: float
    low: float
    high: float


def number(value: Any) -> float | None:
    """The value if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def found(row: Any, *path: str) -> Any:
    """What lies at the end of the path in nested dicts; None if anything on it is missing."""
    for name in path:
        row = row.get(name) if isinstance(row, dict) else None
    return row


def stat(row: Any, *path: str) -> Stat | None:
    """The figure at the end of the path, of a summary (mean, std, seeds) or of a single row (a number)."""
    value = found(row, *path)
    if not isinstance(value, dict):
        single = number(value)
        return None if single is None else Stat(single)
    mean = number(value.get("mean", value.get("value")))
    return None if mean is None else Stat(mean, number(value.get("std")), int(number(value.get("seeds")) or 1))


def interval(row: Any, *path: str) -> Interval | None:
    """The figure with an interval at the end of the path, of a seed's row."""
    value, low, high = (number(found(row, *path, end)) for end in ("value", "low", "high"))
    return None if value is None or low is None or high is None else Interval(value, low, high)


@dataclass(frozen=True)
class Sweep:
    """The place of an entry among those that differ from it by one option's number: ``topk:ratio=0.1``."""

    base: str
    option: str
    value: float


@dataclass(frozen=True, eq=False)
class Model:
    """A row of a summary, and the rows of the seeds that it sums up."""

    name: str
    summary: dict[str, Any]
    runs: tuple[dict[str, Any], ...]

    @property
    def method(self) -> str:
        """The method's name without options; that of the model for source and retrained."""
        return str(self.summary.get("method") or self.name)

    @property
    def group(self) -> str:
        """ "reference": source and retrained models; "ours": this package's methods; "others"."""
        if self.method in (SOURCE, RETRAINED, RETRAIN):
            return REFERENCE
        return OURS if self.summary.get("ours") else OTHERS

    @property
    def failed(self) -> str | None:
        """Why there is no figure, if there is none."""
        reason = self.summary.get("failed")
        return None if reason is None else str(reason)

    @property
    def missed(self) -> tuple[str, ...] | None:
        """The limits that it does not keep to; None if it was not asked to."""
        met = self.summary.get("met")
        return tuple(name for name, kept in met.items() if not kept) if isinstance(met, dict) else None

    def stat(self, *path: str) -> Stat | None:
        """A figure over the seeds."""
        return stat(self.summary, *path)

    def swept(self, option: str) -> Sweep | None:
        """Its place in a sweep of that option, if its name gives the option a number."""
        method, _, rest = self.name.partition(":")
        pairs = [pair.partition("=") for pair in rest.split(",")] if rest else []
        given = [value for name, _, value in pairs if name == option]
        try:
            value = number(float(given[0])) if len(given) == 1 else None
        except ValueError:
            value = None
        if value is None:
            return None
        others = ",".join("".join(pair) for pair in pairs if pair[0] != option)
        return Sweep(f"{method}:{others}" if others else method, option, value)


@dataclass(frozen=True, eq=False)
class Scenario:
    """A deletion request: its models in the order of the results."""

    name: str
    title: str
    seeds: tuple[Any, ...]
    sizes: dict[str, Any]
    parameters: int | None
    models: tuple[Model, ...]
    best_ours: Model | None
    best_others: Model | None
    limits: dict[str, float]

    def model(self, name: Any) -> Model | None:
        """The model of that name, if there is one with figures."""
        return next((model for model in self.models if model.name == name and model.failed is None), None)

    @cached_property
    def swept(self) -> dict[str, dict[str, list[tuple[float, Model]]]]:
        """By option and base: entries that differ by that option's value only, ascending, where there are enough."""
        every: dict[str, dict[str, list[tuple[float, Model]]]] = {}
        for option in ("ratio", "top_share"):
            bases: dict[str, list[tuple[float, Model]]] = {}
            for model in self.models:
                place = model.swept(option) if model.failed is None else None
                if place is not None:
                    bases.setdefault(place.base, []).append((place.value, model))
            every[option] = {
                base: sorted(places, key=lambda place: place[0])
                for base, places in bases.items()
                if len({value for value, _ in places}) >= _FEWEST_SWEPT
            }
        return every

    @cached_property
    def named(self) -> tuple[Model, ...]:
        """Models that plots of all methods name, ours before others: those with figures, of a sweep only the best."""
        swept = {model.name for bases in self.swept.values() for base in bases.values() for _, model in base}
        best = {model.name for model in (self.best_ours, self.best_others) if model is not None}
        shown = (m for m in self.models if m.failed is None and (m.name not in swept or m.name in best))
        return tuple(sorted(shown, key=lambda model: (REFERENCE, OURS, OTHERS).index(model.group)))


def scenarios(results: dict[str, Any]) -> list[Scenario]:
    """The scenarios of the results of :func:`fgunlearn.experiment.compare.comparison.run`, or of its file's.

    Raises:
        ValueError: the results have no summary.
    """
    summaries = results.get("summary")
    if not isinstance(summaries, list) or not all(isinstance(summary, dict) for summary in summaries):
        raise ValueError(f"results must hold a list of summaries as 'summary', got keys {sorted(results)}")
    rows = [row for row in results.get("rows") or [] if isinstance(row, dict)]
    limits = {name: float(limit) for name, limit in (results.get("limits") or {}).items() if number(limit) is not None}
    return [
        _scenario(summary, [r for r in rows if r.get("scenario") == summary.get("scenario")], limits)
        for summary in summaries
    ]


def _scenario(summary: dict[str, Any], rows: Sequence[dict[str, Any]], limits: dict[str, float]) -> Scenario:
    models = tuple(
        Model(str(row["name"]), row, tuple(r for r in rows if r.get("name") == row["name"]))
        for row in summary.get("rows") or []
    )
    by_name = {model.name: model for model in models if model.failed is None}
    parameters = [row["parameters"] for row in rows if number(row.get("parameters"))]
    return Scenario(
        name=str(summary.get("scenario")),
        title=str(summary.get("title") or summary.get("scenario")),
        seeds=tuple(dict.fromkeys(row.get("seed") for row in rows)),
        sizes=next((row["sizes"] for row in rows if isinstance(row.get("sizes"), dict)), {}),
        parameters=int(parameters[0]) if parameters else None,
        models=models,
        best_ours=by_name.get(str(found(summary, "best", "ours"))),
        best_others=by_name.get(str(found(summary, "best", "others"))),
        limits=limits,
    )
