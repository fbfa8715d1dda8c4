"""Confidence intervals by resampling: what a figure would have been, had chance picked other samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fgunlearn.arguments import check_count, check_seed


@dataclass(frozen=True)
class Interval:
    """A figure and its 95% interval, ``low`` to ``high``: what resampling the samples puts around it, mostly.

    It is about the samples alone: that another seed would have trained another model is not in it.
    """

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0.0 or self.high < 0.0


_AT_ONCE = 1 << 22  # draws that are held at a time


def check_draws(resamples: object, seed: object) -> None:
    """Refuses what bootstrap draws can't be made from: to be called before anything that takes its time.

    Raises:
        TypeError, ValueError: resamples that are not an int >= 1, a seed that is not a signed 64-bit int.
    """
    check_count(resamples, "resamples")
    check_seed(seed)


def seed_of_part(seed: int, part: int) -> int:
    """The seed of part 0 or 1 of the data, which are drawn independently; torch's are unsigned, and so modulo 2^64."""
    return (2 * seed + part) % 2**64


def resampled_means(values: Tensor, resamples: int, seed: int) -> Tensor:
    """The means of ``resamples`` draws with replacement of as many rows as there are, float64 (resamples, columns).

    Args:
        values: (samples, columns), one sample or more: the columns are drawn together.
        resamples: how many draws.
        seed: of the draws, a function of it and the number of samples alone.
    """
    values = values.double().cpu()
    n = len(values)
    generator = torch.Generator().manual_seed(seed)
    means = []
    at_once = max(1, _AT_ONCE // n)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        counts = drawn_counts(n, rows, generator)
        means.append(counts @ values / n)
    return torch.cat(means)


def drawn_counts(n: int, draws: int, generator: torch.Generator) -> Tensor:
    """How often each of ``n`` samples is drawn when ``n`` are drawn with replacement, float64 (draws, n)."""
    drawn = torch.randint(n, (draws, n), generator=generator)
    return torch.zeros(draws, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(draws, n, dtype=torch.float64))


def interval(value: float, resampled: Tensor) -> Interval:
    """The percentile interval, 2.5% to 97.5%, of resampled values, 1-D."""
    low, high = torch.quantile(resampled.double(), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(value, low, high)
