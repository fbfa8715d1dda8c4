"""How a learning rate changes over the steps."""

from __future__ import annotations

import math
from typing import Literal, get_args

from fgunlearn.arguments import check_choice, check_number

Schedule = Literal["constant", "linear", "cosine", "onecycle"]


def check_schedule(schedule: object, warmup: object) -> None:
    """Refuses an unknown schedule, and a warm-up outside [0, 1).

    Raises:
        TypeError, ValueError: argument and value are named.
    """
    check_choice(schedule, get_args(Schedule), "schedule")
    check_number(warmup, "warmup", low=0.0, high=1.0)
    if warmup == 1.0:
        raise ValueError(f"warmup must be below 1, got {warmup}")


def learning_rate(schedule: Schedule, lr: float, progress: float, warmup: float) -> float:
    """The learning rate after the share ``progress`` of the steps, in [0, 1).

    "constant"; "linear" to 0; "cosine" to 0; "onecycle", a linear rise over the first ``warmup`` of the steps and a
    linear fall to 0 after it.
    """
    if schedule == "constant":
        return lr
    if schedule == "linear":
        return lr * (1.0 - progress)
    if schedule == "cosine":
        return lr * 0.5 * (1.0 + math.cos(math.pi * progress))
    if progress < warmup:
        return lr * progress / warmup
    return lr * (1.0 - progress) / (1.0 - warmup)
