"""Numbers as they are read: rounded to what they can bear, with a real minus."""

from __future__ import annotations

import math

POINTS = 100.0
"""Percentage points in one."""

MINUS, TIMES, PLUS_MINUS = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{PLUS-MINUS SIGN}"


def decimal(value: float, places: int, signed: bool = False) -> str:
    """With that many decimal places; a rounded 0 has no minus."""
    text = f"{value:+.{places}f}" if signed else f"{value:.{places}f}"
    if float(text) == 0.0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def significant(value: float, digits: int = 3) -> str:
    """With that many digits, never in powers of ten."""
    if value == 0.0 or not math.isfinite(value):
        return decimal(value, 0) if math.isfinite(value) else str(value)
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return decimal(round(value, places), min(max(places, 0), 9))


def tick(value: float) -> str:
    """The shortest form of a round number on an axis."""
    return f"{value:.10g}".replace("-", MINUS)


def times(value: float) -> str:
    """A ratio: ``12.3x`` with a real cross."""
    return significant(value) + TIMES


def seconds(value: float) -> str:
    """A duration with its unit."""
    if value < 1.0:
        return f"{significant(1000.0 * value)} ms"
    return f"{significant(value)} s" if value < 600.0 else f"{significant(value / 60.0)} min"
