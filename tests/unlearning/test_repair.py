from __future__ import annotations

from typing import Any

import pytest

import fgunlearn as fg


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("cosine", [1.0, 0.854, 0.5, 0.146]),
        ("onecycle", [0.0, 1.0, 0.667, 0.333]),
    ],
)
def test_the_learning_rate_follows_its_schedule(schedule: Any, values: list[float]) -> None:
    repair = fg.Repair(lr=2.0, schedule=schedule, warmup=0.25)
    for quarter, value in enumerate(values):
        assert repair.learning_rate(quarter / 4) == pytest.approx(2 * value, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"epochs": -1}, ValueError, "epochs must be >= 0, got -1"),
        ({"lr": 0}, ValueError, "lr must be > 0, got 0"),
        ({"lr": float("nan")}, ValueError, "lr must be > 0, got nan"),
        ({"momentum": "0.9"}, TypeError, "momentum must be a number, got '0.9'"),
        ({"weight_decay": -1e-3}, ValueError, "weight_decay must be >= 0"),
        ({"schedule": "step"}, ValueError, "schedule must be one of .*, got 'step'"),
        ({"forget": "erase"}, ValueError, "forget must be one of .*, got 'erase'"),
        ({"update": "some"}, ValueError, "update must be one of 'selection', 'all', got 'some'"),
        ({"batch_norm": "off"}, ValueError, "batch_norm must be one of"),
        ({"weight": 0}, ValueError, "weight must be > 0"),
        ({"forget_share": 1.1}, ValueError, "forget_share must be >= 0 and at most 1, got 1.1"),
        ({"warmup": 1.0}, ValueError, "warmup must be below 1"),
        ({"forget_batch": 0}, ValueError, "forget_batch must be >= 1, got 0"),
        ({"neighbours": 1.5}, TypeError, "neighbours must be an int"),
        ({"retain_loss": -1}, ValueError, "retain_loss must be >= 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        fg.Repair(**settings)
