"""Axes: where a value lies on a drawing, the round numbers beside it, and the frame of a plot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fgunlearn.report.comparison.svg import SMALL, Drawing, text_width
from fgunlearn.report.comparison.wording import tick


@dataclass(frozen=True)
class Axis:
    """Values from low to high on px from start to end; values beyond are drawn at the ends.

    Raises:
        ValueError: high is not above low, or low is not above 0 on a logarithmic axis.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0.0):
            raise ValueError(f"an axis can't go from {self.low} to {self.high}")

    def at(self, value: float) -> float:
        """Where a value lies, px."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, spacing: float = 60.0) -> list[float]:
        """Round numbers on it, at least about ``spacing`` px apart."""
        room = max(int(abs(self.end - self.start) / spacing), 1)
        if self.log:
            for steps in ((1, 2, 5), (1, 3), (1,)):
                values = self._decades(steps)
                if 1 < len(values) <= room + 1:
                    return values
            if self.high / self.low > 10.0:
                values = self._decades((1,))
                return values[:: math.ceil(len(values) / (room + 1))]
        step = _round_step((self.high - self.low) / room)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(n * step, 12) for n in range(first, last + 1)]

    def _decades(self, steps: Sequence[int]) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
        values = [round(step * 10.0**decade, 12) for decade in decades for step in steps]
        return [value for value in values if self.low <= value <= self.high]


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))


def padded(values: Sequence[float], share: float = 0.06, least: float = 1e-9) -> tuple[float, float]:
    """The range of the values and a margin on either side, at least ``least`` wide."""
    low, high = min(values), max(values)
    margin = max(share * (high - low), 0.5 * (least - (high - low)), 1e-9)
    return low - margin, high + margin


def padded_log(values: Sequence[float], factor: float = 1.3) -> tuple[float, float]:
    """The same for a logarithmic axis: a factor at either end."""
    return min(values) / factor, max(values) * factor


def frame(
    drawing: Drawing,
    x: Axis,
    y: Axis,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[float] | None = None,
    y_text: Callable[[float], str] = tick,
    x_text: Callable[[float], str] = tick,
) -> None:
    """Grid, numbers and names of the axes; the name of y stands above it, where it is read without turning the head."""
    for value in y.ticks(34.0):
        drawing.line(x.start, y.at(value), x.end, y.at(value), "grid")
        drawing.text(x.start - 7, y.at(value) + 4, y_text(value), "small", "end")
    numbers_below(drawing, x, y.start, y.end, x_ticks, x_text)
    drawing.text(x.start - 7 if x.start < 40 else 2, y.end - 12, y_label, "label")
    drawing.text(x.end, y.start + 36, x_label, "label", "end")


def numbers_below(
    drawing: Drawing,
    x: Axis,
    bottom: float,
    top: float,
    values: Sequence[float] | None = None,
    text: Callable[[float], str] = tick,
) -> None:
    """The grid and numbers of an x axis whose plot reaches from ``bottom`` up to ``top``; none that would touch."""
    taken = -math.inf
    for value in x.ticks() if values is None else values:
        drawing.line(x.at(value), bottom, x.at(value), top, "grid")
        half = 0.5 * text_width(text(value), SMALL)
        if x.at(value) - half >= taken + 4:
            drawing.text(x.at(value), bottom + 17, text(value), "small", "middle")
            taken = x.at(value) + half
