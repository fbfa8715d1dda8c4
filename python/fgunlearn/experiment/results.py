"""Results over several seeds: their mean and spread, and the file they go to."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
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


def write_json(results: dict[str, Any], path: Path) -> None:
    """Writes the results, replacing the file at once; NaN becomes null, as JSON has none."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_without_nan(results), indent=1) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return value
