"""What a fit looks at: samples of the data in units of their own range."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fgunlearn.batches import Loader

MOST_SAMPLES = 4096
"""Of a loader that are kept in memory; uniformly drawn where it holds more."""

CHUNK = 256
"""Samples that a network is given at a time, where nothing else says how many."""


@dataclass(frozen=True)
class UnitRange:
    """Maps each channel (dimension 1 of a batch) from [low, high] to [0, 1], and back.

    Attributes:
        low: float32 (channels,).
        high: float32 (channels,), above low.
    """

    low: Tensor
    high: Tensor

    def to_unit(self, x: Tensor) -> Tensor:
        """Float32; samples outside the range leave [0, 1]."""
        low, high = self._like(x)
        return (x.float() - low) / (high - low)

    def from_unit(self, unit: Tensor, dtype: torch.dtype) -> Tensor:
        """The inverse, rounded to ``dtype``; 0 and 1 come out as low and high exactly."""
        low, high = self._like(unit)
        return torch.lerp(low, high, unit).to(dtype)

    def to(self, device: torch.device) -> UnitRange:
        """The same on a device."""
        return UnitRange(self.low.to(device), self.high.to(device))

    def _like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        return self.low.reshape(shape), self.high.reshape(shape)


def check_bounds(lo: float | None, hi: float | None) -> None:
    """That the bounds given are finite and lo < hi.

    Raises:
        ValueError: they are not.
    """
    for name, value in (("lo", lo), ("hi", hi)):
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")
    if lo is not None and hi is not None and not lo < hi:
        raise ValueError(f"lo must be less than hi, got lo={lo} and hi={hi}")


def unit_range(low: Tensor, high: Tensor, lo: float | None, hi: float | None) -> UnitRange:
    """The range seen in the data, (channels,), with the bounds that are given in the place of its own.

    A channel that is constant gets a range of length 1, or of its own magnitude where that is more.

    Raises:
        ValueError: a bound that is given leaves no range: lo not below the largest value, hi not above the smallest.
    """
    if lo is not None and hi is None and not lo < float(high.max()):
        raise ValueError(f"lo must be below the data's largest value, {float(high.max())}, got {lo}")
    if hi is not None and lo is None and not hi > float(low.min()):
        raise ValueError(f"hi must be above the data's smallest value, {float(low.min())}, got {hi}")
    low = low if lo is None else torch.full_like(low, lo)
    high = high if hi is None else torch.full_like(high, hi)
    return UnitRange(low, torch.where(high > low, high, low + low.abs().clamp_min(1.0)))


@dataclass(frozen=True)
class Sampled:
    """Up to ``MOST_SAMPLES`` samples of a loader, and the range of all of them.

    Attributes:
        x: (samples, *shape), on the CPU, in the loader's dtype.
        y: int64 (samples,).
        low: the smallest value of each channel over the whole loader, float32 (channels,).
        high: the largest.
    """

    x: Tensor
    y: Tensor
    low: Tensor
    high: Tensor


def sampled(loader: Loader, argument: str, seed: int) -> Sampled:
    """One pass over a loader of ``(x, y)`` batches; which samples stay is a function of the seed and their order.

    Raises:
        TypeError: batches that are not ``(x, y)`` with a floating-point x.
        ValueError: no sample, samples of different shapes, a NaN or an infinity.
    """
    kept = _Reservoir(seed)
    shape: tuple[int, ...] | None = None
    low = high = torch.empty(0)
    for batch in loader:
        more_x, more_y = _checked(batch, argument)
        if len(more_x) == 0:
            continue
        over = [d for d in range(more_x.dim()) if d != 1]
        smallest, largest = more_x.amin(over).float(), more_x.amax(over).float()
        if not bool((smallest.isfinite() & largest.isfinite()).all()):
            raise ValueError(f"{argument}: x holds NaN or infinity")
        if shape is None:
            shape, low, high = tuple(more_x.shape[1:]), smallest, largest
        if tuple(more_x.shape[1:]) != shape:
            raise ValueError(f"{argument}: samples must have one shape, got {shape} and {tuple(more_x.shape[1:])}")
        low, high = torch.minimum(low, smallest), torch.maximum(high, largest)
        kept.add(more_x, more_y)
    if shape is None:
        raise ValueError(f"{argument} is empty")
    return Sampled(torch.stack(kept.x), torch.stack(kept.y).long(), low, high)


class _Reservoir:
    """The ``MOST_SAMPLES`` samples of a stream with the smallest random keys; each costs a copy when it comes in."""

    def __init__(self, seed: int) -> None:
        self.x: list[Tensor] = []
        self.y: list[Tensor] = []
        self._generator = torch.Generator().manual_seed(seed)
        self._largest: list[tuple[float, int]] = []  # a heap of (-key, place)

    def add(self, x: Tensor, y: Tensor) -> None:
        keys: list[float] = torch.rand(len(x), generator=self._generator, dtype=torch.float64).tolist()
        for key, of_x, of_y in zip(keys, x, y, strict=True):
            if len(self.x) < MOST_SAMPLES:
                heapq.heappush(self._largest, (-key, len(self.x)))
                self.x.append(of_x.clone())
                self.y.append(of_y.clone())
            elif key < -self._largest[0][0]:
                place = self._largest[0][1]
                heapq.heapreplace(self._largest, (-key, place))
                self.x[place], self.y[place] = of_x.clone(), of_y.clone()


def _checked(batch: Any, argument: str) -> tuple[Tensor, Tensor]:
    parts = batch if isinstance(batch, (tuple, list)) else [batch]
    if len(parts) != 2 or not all(isinstance(part, Tensor) for part in parts):
        found = ", ".join(type(part).__name__ for part in parts)
        raise TypeError(f"{argument} must give (x, y) batches of two tensors, got ({found})")
    x, y = (part.detach().cpu() for part in parts)
    if not x.is_floating_point():
        raise TypeError(f"{argument}: x must be floating-point, got {x.dtype}")
    if x.dim() < 2:
        raise ValueError(f"{argument}: x must be of shape (batch, channels, ...), got {tuple(x.shape)}")
    if tuple(y.shape) != (len(x),):
        raise ValueError(f"{argument}: y must be of shape ({len(x)},), one label for each x, got {tuple(y.shape)}")
    return x, y
