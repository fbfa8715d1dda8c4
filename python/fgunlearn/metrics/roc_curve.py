"""How well scores tell members from others: area under the ROC curve, and the hit rate at few false alarms."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fgunlearn.metrics.bootstrap import Interval, check_draws, drawn_counts, interval, seed_of_part

MAX_FPR = 0.01
"""The share of false alarms that the hit rate is given at."""

_AT_ONCE = 1 << 22  # counts that are held at a time


def roc(members: Tensor, others: Tensor, max_fpr: float = MAX_FPR) -> tuple[float, float]:
    """AUC, and TPR at a false positive rate of at most ``max_fpr``, of scores that are higher for members.

    AUC is the chance that a member's score is above another's, ties counting half; 0.5 is a score that knows nothing.
    The TPR is the largest share of members at or above a threshold that at most the share ``max_fpr`` of the others
    reach, so with fewer than 1 / max_fpr others, that none of them reaches; about ``max_fpr`` for a score that knows
    nothing. Both in [0, 1].

    Args:
        members: float (n,), n >= 1.
        others: float (m,), m >= 1.
        max_fpr: in [0, 1].

    Raises:
        ValueError: an empty or not 1-D tensor, a NaN, ``max_fpr`` out of its range.
    """
    _check(members, others, max_fpr)
    whole = torch.ones(1, len(members), dtype=torch.float64), torch.ones(1, len(others), dtype=torch.float64)
    area, rate = _Ranked(members, others).roc(*whole, max_fpr)
    return float(area), float(rate)


def roc_intervals(
    members: list[Tensor], others: list[Tensor], *, resamples: int, seed: int, max_fpr: float = MAX_FPR
) -> list[tuple[Interval, Interval]]:
    """:func:`roc` of several scores of the same samples, with 95% bootstrap intervals.

    Members and others are drawn with replacement, independently; all scores of a sample are drawn together.

    Args:
        members: per score, float (n,).
        others: per score, float (m,).
        resamples: bootstrap draws, at least 1.
        seed: of the draws.
        max_fpr: see :func:`roc`.

    Raises:
        TypeError: resamples or a seed that is no int.
        ValueError: as :func:`roc`; resamples < 1; a seed of more than 64 bits; scores of different numbers of samples.
    """
    check_draws(resamples, seed)
    values = [roc(m, o, max_fpr) for m, o in zip(members, others, strict=True)]
    for argument, scores in (("members", members), ("others", others)):
        if len({len(s) for s in scores}) > 1:
            raise ValueError(f"{argument} must be scores of the same samples, got {[len(s) for s in scores]} of them")
    ranked = [_Ranked(m, o) for m, o in zip(members, others, strict=True)]
    drawn: list[list[tuple[Tensor, Tensor]]] = [[] for _ in ranked]
    for counts in _draws(len(members[0]), len(others[0]), resamples, seed):
        for found, score in zip(drawn, ranked, strict=True):
            found.append(score.roc(*counts, max_fpr))
    return [
        (
            interval(area, torch.cat([areas for areas, _ in found])),
            interval(rate, torch.cat([rates for _, rates in found])),
        )
        for (area, rate), found in zip(values, drawn, strict=True)
    ]


def _draws(n: int, m: int, resamples: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    of_members, of_others = (torch.Generator().manual_seed(seed_of_part(seed, which)) for which in (0, 1))
    at_once = max(1, _AT_ONCE // (n + m))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        yield drawn_counts(n, rows, of_members), drawn_counts(m, rows, of_others)


class _Ranked:
    """Samples in groups of equal score, the highest score first: all that an ROC curve looks at."""

    def __init__(self, members: Tensor, others: Tensor) -> None:
        scores = torch.cat([members.detach().double().cpu(), others.detach().double().cpu()])
        values, group = torch.unique(-scores, return_inverse=True)
        self._groups = len(values)
        self._members, self._others = group[: len(members)], group[len(members) :]

    def roc(self, members: Tensor, others: Tensor, max_fpr: float) -> tuple[Tensor, Tensor]:
        """AUC and TPR, float64 (draws,), where sample i counts so often: float64 (draws, n) and (draws, m)."""
        hits, alarms = self._by_group(members, self._members), self._by_group(others, self._others)
        n, m = members.shape[1], others.shape[1]
        raised = alarms.cumsum(1)
        below = m - raised + 0.5 * alarms
        area = (hits * below).sum(1) / (n * m)
        # Whole numbers, and a limit that rounding has not put just below one: 0.29 * 100 is 28.999999999999996.
        reached = (raised <= math.floor(max_fpr * m + 1e-9)).sum(1, keepdim=True)
        rates = torch.nn.functional.pad(hits.cumsum(1), (1, 0)).gather(1, reached)[:, 0] / n
        return area, rates

    def _by_group(self, counts: Tensor, group: Tensor) -> Tensor:
        return torch.zeros(len(counts), self._groups, dtype=torch.float64).index_add_(1, group, counts)


def _check(members: Tensor, others: Tensor, max_fpr: float) -> None:
    for argument, scores in (("members", members), ("others", others)):
        if scores.dim() != 1 or len(scores) == 0:
            raise ValueError(f"{argument} must be of shape (samples,), samples >= 1, got {tuple(scores.shape)}")
        if bool(scores.isnan().any()):
            raise ValueError(f"{argument} holds {int(scores.isnan().sum())} NaN")
    if not 0.0 <= max_fpr <= 1.0:
        raise ValueError(f"max_fpr must be in [0, 1], got {max_fpr}")
