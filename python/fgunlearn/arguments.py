"""Checks of plain arguments, each with an error that names the argument and the value."""

from __future__ import annotations

import math
from collections.abc import Sequence


def check_choice(value: object, allowed: Sequence[object], argument: str) -> None:
    """Refuses what is not one of ``allowed``.

    Raises:
        ValueError: it is not.
    """
    if value not in allowed:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_count(value: object, argument: str, low: int = 1) -> None:
    """Refuses what is not an int >= ``low``.

    Raises:
        TypeError, ValueError: not an int; below.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be an int, got {value!r}")
    if value < low:
        raise ValueError(f"{argument} must be >= {low}, got {value}")


def check_number(
    value: object, argument: str, *, low: float = -math.inf, high: float = math.inf, above: bool = False
) -> None:
    """Refuses what is not a finite number in [low, high], or with ``above`` in (low, high].

    Raises:
        TypeError, ValueError: not a number; outside.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{argument} must be a number, got {value!r}")
    if math.isinf(low) and not math.isfinite(value):
        raise ValueError(f"{argument} must be finite, got {value}")
    if not math.isfinite(value) or value < low or value > high or (above and value == low):
        upper = "" if math.isinf(high) else f" and at most {high:g}"
        raise ValueError(f"{argument} must be {'>' if above else '>='} {low:g}{upper}, got {value}")


def check_seed(seed: object) -> None:
    """Refuses what is not a signed 64-bit int.

    Raises:
        TypeError, ValueError: not an int; too large.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an int, got {seed!r}")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must fit in 64 bits, got {seed}")
