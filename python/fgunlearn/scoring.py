"""The kinds of score, and how much of one is held at a time: what planning shares with the code. Needs no torch."""

from __future__ import annotations

from typing import Literal

ScoreKind = Literal["grad", "abs_grad", "fisher", "saliency", "fisher_ratio"]

FUSED_KINDS = ("grad", "abs_grad", "fisher")
"""The scores that are sums over batches, with nothing done to them afterwards."""

CHUNK = 2**22
"""Coordinates of a gradient that are worked on at a time: what that needs beside the gradient is 16 MiB of float32."""

LEAST_BUDGET, BUDGET_SHARE = 2**28, 4
"""``memory_budget`` of :func:`fgunlearn.select` where none is given: so many bytes, or a 4th of the parameters'."""


def default_budget(parameter_bytes: int) -> int:
    """``memory_budget`` where none is given: it grows with the model, so that the number of groups does not."""
    return max(LEAST_BUDGET, parameter_bytes // BUDGET_SHARE)
