"""Maximum mean discrepancy: how far apart two sets of samples are, and whether by more than chance.

Source: Gretton et al., A Kernel Two-Sample Test, JMLR 2012.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fgunlearn.arguments import check_count, check_seed

_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the mixture's squared bandwidths, around the one that is given
MOST_TESTED = 1 << 14
"""Samples of both sets together that a permutation test takes: 2 GiB of kernel values."""

_ROWS = 512  # permutations of the test that are worked on at a time
_LARGEST = 2048  # samples of a set that the median distance is taken over


def median_bandwidth(x: Tensor) -> Tensor:
    """The median squared distance between two rows, a scalar: the usual bandwidth of an RBF kernel.

    Of x's dtype, but float32 for float16 and bfloat16, in which squares overflow or lose what matters. Without a
    gradient. Taken over the first 2,048 rows. Where more than half of the distances are 0, the mean of the
    others; 1 where all are.

    Args:
        x: float (samples, features), two samples or more.

    Raises:
        TypeError: not float.
        ValueError: fewer than two samples.
    """
    _check_samples("x", x)
    x = _wide(x[:_LARGEST].detach())
    # Coordinate by coordinate: between equal rows that is 0, and not what the rounding of products leaves.
    distances = torch.pdist(x).square()
    median, positive = distances.median(), distances[distances > 0]
    if float(median) > 0 or len(positive) == 0:
        return torch.where(median > 0, median, torch.ones_like(median))
    return positive.mean()


def squared_mmd(x: Tensor, y: Tensor, bandwidth: Tensor | float) -> Tensor:
    """The unbiased estimate of the squared maximum mean discrepancy of two sets of samples, a differentiable scalar.

    The kernel is the mean of five RBF kernels exp(-d^2 / (2 b)), b the bandwidth times 1/4, 1/2, 1, 2 and 4. 0 on
    average for samples of one distribution, and then as often negative as positive; at most 2. float16 and bfloat16
    are worked on in float32.

    Args:
        x: float (n, features), n >= 2.
        y: float (m, features), m >= 2.
        bandwidth: b, in squared units of the features; see :func:`median_bandwidth`.

    Raises:
        TypeError: not float.
        ValueError: fewer than two samples, other numbers of features, a bandwidth that is not above 0 and finite.
    """
    _check_pair(x, y)
    x, y = _wide(x), _wide(y)
    n, m = len(x), len(y)
    within_x, within_y = _kernel(x, x, bandwidth), _kernel(y, y, bandwidth)
    # A sample's kernel with itself is 1.
    of_x = (within_x.sum() - n) / (n * (n - 1))
    of_y = (within_y.sum() - m) / (m * (m - 1))
    return of_x + of_y - 2.0 * _kernel(x, y, bandwidth).mean()


@dataclass(frozen=True)
class TwoSampleTest:
    """``squared_mmd`` as it was found, and the share ``p_value`` of permutations with at least as large a one."""

    squared_mmd: float
    p_value: float
    permutations: int


def mmd_test(
    x: Tensor, y: Tensor, *, bandwidth: Tensor | float | None = None, permutations: int = 1000, seed: int = 0
) -> TwoSampleTest:
    """A permutation test of whether two sets of samples come from one distribution.

    The p-value is (1 + permutations with a squared MMD at least as large) / (1 + permutations): valid for any number of
    samples that are exchangeable under the hypothesis, in (0, 1], and never below 1 / (1 + permutations). Where y are
    changed copies of x's very samples, the two sets are closer than independent ones, and the test is conservative.

    Memory: (n + m)^2 kernel values in float64, so n + m may be 16,384 at most; a uniform part of larger sets will do.

    Args:
        x: float (n, features), n >= 2.
        y: float (m, features), m >= 2.
        bandwidth: see :func:`squared_mmd`; None for the median squared distance over both sets' first 1,024 rows.
        permutations: how many, at least 1.
        seed: of the permutations.

    Raises:
        TypeError: not float; permutations or a seed that is no int.
        ValueError: fewer than two samples, other numbers of features, a NaN or an infinity, permutations < 1, a
            bandwidth that is not above 0 and finite, more than 16,384 samples, a seed of more than 64 bits.
    """
    check_count(permutations, "permutations")
    check_seed(seed)
    _check_pair(x, y)
    if len(x) + len(y) > MOST_TESTED:
        raise ValueError(f"x and y must have at most {MOST_TESTED:,} samples together, got {len(x):,} and {len(y):,}")
    for name, samples in (("x", x), ("y", y)):
        if not bool(samples.isfinite().all()):
            raise ValueError(f"{name} holds NaN or infinity")
    x, y = x.detach().double(), y.detach().double().to(x.device)
    both, n, m = torch.cat([x, y]), len(x), len(y)
    # Of as many samples of each, so that a large x does not make the median its own.
    kernel = _kernel(both, both, _median_of_both(x, y) if bandwidth is None else bandwidth)
    kernel.fill_diagonal_(0.0)
    generator = torch.Generator().manual_seed(seed)

    def statistics(in_x: Tensor) -> Tensor:
        """The squared MMDs of some ways to part the samples, float64 (ways, n + m), 1 where a sample is in x."""
        to_x = in_x @ kernel
        within_x = (to_x * in_x).sum(1)
        across = (to_x * (1.0 - in_x)).sum(1)
        within_y = kernel.sum() - within_x - 2.0 * across
        return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2.0 * across / (n * m)

    as_given = torch.zeros(1, n + m, dtype=torch.float64, device=x.device)
    as_given[:, :n] = 1.0
    found = statistics(as_given)
    # Equal but for rounding counts as equal, or a permutation that changes nothing could seem smaller. within_y is what
    # is left of the whole sum, so it is that sum that is rounded, and the smaller set that makes most of it.
    fewest = min(n, m)
    limit = found - 1e-14 * kernel.sum() / (fewest * (fewest - 1))
    at_least = 0
    for start in range(0, permutations, _ROWS):
        rows = min(_ROWS, permutations - start)
        order = torch.rand(rows, n + m, generator=generator).argsort(1)
        parted = torch.zeros(rows, n + m, dtype=torch.float64).scatter_(1, order[:, :n], 1.0)
        at_least += int((statistics(parted.to(x.device)) >= limit).sum())
    return TwoSampleTest(float(found), (1 + at_least) / (1 + permutations), permutations)


def _median_of_both(x: Tensor, y: Tensor) -> Tensor:
    half = _LARGEST // 2
    return median_bandwidth(torch.cat([x[:half], y[:half]]))


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    # About a common origin near the samples: the differences of large squares would lose the small distances, and so
    # would a product in autocast's precision.
    with torch.autocast(x.device.type, enabled=False):
        origin = y.detach().mean(0)
        x, y = x - origin, y - origin
        return (x.square().sum(1)[:, None] + y.square().sum(1) - 2.0 * (x @ y.T)).clamp_min(0.0)


def _kernel(x: Tensor, y: Tensor, bandwidth: Tensor | float) -> Tensor:
    if not 0.0 < float(bandwidth) < math.inf:
        raise ValueError(f"bandwidth must be > 0 and finite, got {float(bandwidth)}")
    distances = _squared_distances(x, y)
    total = torch.zeros_like(distances)
    for scale in _SCALES:
        total = total + torch.exp(distances / (-2.0 * scale * bandwidth))
    return total / len(_SCALES)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _check_samples(name: str, x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"{name} must be float, got {x.dtype}")
    if x.dim() != 2 or len(x) < 2:
        raise ValueError(f"{name} must be of shape (samples, features) with two samples or more, got {tuple(x.shape)}")


def _check_pair(x: Tensor, y: Tensor) -> None:
    _check_samples("x", x)
    _check_samples("y", y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must have as many features, got {x.shape[1]} and {y.shape[1]}")
