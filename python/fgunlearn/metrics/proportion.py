"""The interval of a share that was counted."""

from __future__ import annotations

import math

from fgunlearn.arguments import check_count
from fgunlearn.metrics.bootstrap import Interval

_Z = 1.959963984540054  # 97.5% of the normal distribution


def proportion(hits: int, samples: int) -> Interval:
    """A share and its 95% Wilson score interval (Wilson, JASA 1927), in [0, 1].

    Of few samples, or a share of 0 or 1, it still says what is not known, where resampling would draw the same again
    and again: 3 of 3 is 0.44 to 1.

    Args:
        hits: how many.
        samples: of how many, at least 1.

    Raises:
        TypeError, ValueError: no ints; hits outside [0, samples], or no sample.
    """
    check_count(samples, "samples")
    check_count(hits, "hits", low=0)
    if hits > samples:
        raise ValueError(f"hits must be at most samples, {samples}, got {hits}")
    share, z2 = hits / samples, _Z * _Z
    middle = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    half = _Z * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples * samples)) / (1 + z2 / samples)
    # At the ends the bound is the share itself, which rounding would miss.
    low = 0.0 if hits == 0 else middle - half
    high = 1.0 if hits == samples else middle + half
    return Interval(share, low, high)
