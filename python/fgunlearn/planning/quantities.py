"""Numbers as people write them on a command line: 8e9, 8B, 0.1%."""

from __future__ import annotations

import math

_LETTERS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def number(text: str, what: str) -> float:
    """A finite number, in plain or exponent notation or with one of the letters K, M, B (1e9) and T behind it.

    Raises:
        ValueError: it is none; the message begins with ``what``.
    """
    letter = text[-1:].upper()
    try:
        value = float(text[:-1]) * _LETTERS[letter] if letter in _LETTERS else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{what} must be a number like 8e9, 8B or 350M, got {text!r}")
    return value


def count(text: str, what: str) -> int:
    """A whole number >= 1.

    Raises:
        ValueError: it is none.
    """
    value = number(text, what)
    if value < 1 or value != round(value):
        raise ValueError(f"{what} must be a whole number of at least 1, got {text!r}")
    return round(value)


def share_or_count(text: str, what: str, n: int) -> int:
    """How many of n: a share where it ends in % or is below 1, else their number.

    Raises:
        ValueError: it is none, or not in [0, n].
    """
    if text.endswith("%"):
        share = number(text[:-1], what) / 100
        if not 0 <= share <= 1:
            raise ValueError(f"{what} must be between 0% and 100%, got {text!r}")
        return round(share * n)
    value = number(text, what)
    if 0 <= value < 1:
        return round(value * n)
    if value < 0 or value != round(value) or value > n:
        raise ValueError(f"{what} must be a share like 0.1% or a whole number up to {n}, got {text!r}")
    return round(value)
