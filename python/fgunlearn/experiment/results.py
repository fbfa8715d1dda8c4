"""Results over several seeds: their mean and spread, and the file they go to."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fgunlearn.files import replacing


def mean_and_deviation(values: Sequence[float]) -> dict[str, float]:
    """Mean, sample standard deviation and number of the values that are defined; NaN where there are too few."""
    defined = [value for value in values if not math.isnan(value)]
    return {
        "mean": statistics.fmean(defined) if defined else math.nan,
        "std": statistics.stdev(defined) if len(defined) > 1 else math.nan,
        "seeds": len(defined),
    }


def spread(value: Mapping[str, float | None] | None, digits: int, scale: float = 1.0) -> str:
    """Mean±std as text; the mean alone for a single seed; a dash for what is not defined, NaN or, as read, None."""
    mean, std = (None, None) if value is None else (value["mean"], value["std"])
    if mean is None or math.isnan(mean):
        return "-"
    deviation = "" if std is None or math.isnan(std) else f"±{scale * std:.{digits}f}"
    return f"{scale * mean + 0.0:.{digits}f}{deviation}"


def write_json(results: dict[str, Any], path: Path) -> None:
    """Writes the results, replacing the file at once; NaN becomes null, as JSON has none."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_without_nan(results), indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """What a file holds; None if there is none, or what is in it is no JSON object."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def merged(found: Sequence[Any]) -> Any:
    """Alike nested results of several seeds as one: mean, deviation and number of seeds in place of each number.

    Intervals are not averaged: what is kept of them is for how many seeds they exclude 0. Numbers that a seed does not
    have (None) are left out; what is no number is the first seed's.
    """
    first = next((f for f in found if f is not None), None)
    if isinstance(first, dict):
        there = [f for f in found if f is not None]
        if first.keys() == {"value", "low", "high"}:
            return {
                **mean_and_deviation([f["value"] for f in there]),
                "excludes_zero": sum(f["low"] > 0 or f["high"] < 0 for f in there),
            }
        return {key: merged([f.get(key) for f in there]) for key in first}
    if isinstance(first, (int, float)) and not isinstance(first, bool):
        return mean_and_deviation([math.nan if f is None else float(f) for f in found])
    return first


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return value
