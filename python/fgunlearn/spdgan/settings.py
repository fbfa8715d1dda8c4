"""What a fit is made of, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """How an :class:`fgunlearn.SPDGAN` is trained, and when it stops.

    The three weights are relative: each term's gradient in x~ is brought to its weight's length before they are added,
    so that they say how hard each pulls, whatever it is measured in.

    Args:
        steps: at most this many; each trains the critic once and the generator once.
        batch: samples per step, at least 2.
        lr: of Adam, for both networks.
        critic_weight: of -D(x~); 0 trains no critic.
        critic_ramp: share of the steps after which the critic has its weight, in [0, 1]. It has none for the first half
            of them, and then ever more: it would hold back a shift that is not there yet, and whose direction is noise.
        shift_weight: lambda_shift, of the squared MMD that is to grow.
        magnitude_weight: lambda_mag, of what rms(x~ - x) exceeds ``magnitude`` by.
        magnitude: c, in units of the data's range.
        accuracy_budget: how much accuracy on the forget data the source model may lose to the perturbation, in [0, 1];
            what was learned is scaled down until it keeps to that, or the fit refused. None for no such limit.
        average: decay of the generator's moving average, per step.
        heldout_share: share of the forget data that is kept out of training, to see where the shift levels off; where
            that leaves fewer than two samples on either side, the look is at what is trained on.
        check_every: steps between two looks at it.
        patience: looks that are taken together: training stops where their mean is not 1% above that of as many before.

    Raises:
        TypeError: a number that is none.
        ValueError: one out of range.
    """

    steps: int = 300
    batch: int = 64
    lr: float = 1e-3
    critic_weight: float = 0.8
    critic_ramp: float = 0.5
    shift_weight: float = 1.0
    magnitude_weight: float = 1.0
    magnitude: float = 0.1
    accuracy_budget: float | None = 0.1
    average: float = 0.98
    heldout_share: float = 0.2
    check_every: int = 25
    patience: int = 4

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 2), ("check_every", 1), ("patience", 1)):
            check_count(name, getattr(self, name), least)
        for name in ("critic_weight", "shift_weight", "magnitude_weight", "magnitude"):
            value = getattr(self, name)
            check_number(name, value)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and >= 0, got {value}")
        check_number("lr", self.lr)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr must be finite and > 0, got {self.lr}")
        if self.accuracy_budget is not None:
            check_number("accuracy_budget", self.accuracy_budget)
            if not 0.0 <= self.accuracy_budget <= 1.0:
                raise ValueError(f"accuracy_budget must be in [0, 1] or None, got {self.accuracy_budget}")
        check_number("critic_ramp", self.critic_ramp)
        if not 0.0 <= self.critic_ramp <= 1.0:
            raise ValueError(f"critic_ramp must be in [0, 1], got {self.critic_ramp}")
        for name in ("average", "heldout_share"):
            value = getattr(self, name)
            check_number(name, value)
            if not 0.0 <= value < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {value}")

    def critic_share(self, step: int) -> float:
        """The share of its weight that the critic has at a step, counted from 1."""
        ramp = self.critic_ramp * self.steps
        return min(1.0, max(0.0, 2.0 * step / ramp - 1.0)) if ramp > 0 else 1.0


def check_count(name: str, value: object, least: int) -> None:
    """That an argument is a whole number, and large enough.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an int >= {least}, got {value!r}")


def check_number(name: str, value: object) -> None:
    """That an argument is a number.

    Raises:
        TypeError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
