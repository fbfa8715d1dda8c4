"""Score accumulation: one fused pass per batch. Kernel: ``csrc/cpu/score.cpp``, ``csrc/cpu/isa/score.h``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fgunlearn.ops.versions import mark_written

_ops = torch.ops.fgunlearn


def score_accumulate_(score: Sequence[Tensor], grad: Sequence[Tensor], kind: str, weight: float) -> None:
    """``score[t] += weight * f(grad[t])`` in place; f is g, |g| or g^2 for kind "grad", "abs_grad" or "fisher".

    Args:
        score: contiguous float32 tensors (float64 where grad is).
        grad: tensors of the same shapes, any supported dtype; a non-contiguous one is copied.
        kind: "grad", "abs_grad" or "fisher".
        weight: finite; each product is rounded, then the sum.

    Raises:
        RuntimeError: lengths, shapes or dtypes that don't fit, an unknown kind; the scores are unchanged.
    """
    _ops.score_accumulate_(list(score), list(grad), kind, weight)
    mark_written(score)


def score_accumulate_ref(score: Sequence[Tensor], grad: Sequence[Tensor], kind: str, weight: float) -> list[Tensor]:
    """Specification of :func:`score_accumulate_`: the new scores."""
    new = []
    for s, g in zip(score, grad, strict=True):
        value = g.to(s.dtype)
        value = {"grad": value, "abs_grad": value.abs(), "fisher": value * value}[kind]
        new.append(s + value * torch.tensor(weight, dtype=s.dtype))
    return new


def count_nonfinite(tensors: Sequence[Tensor]) -> Tensor:
    """The number of NaN and infinite elements of each tensor: int64 of shape (len(tensors),). One read."""
    return _ops.count_nonfinite(list(tensors))


def count_nonfinite_ref(tensors: Sequence[Tensor]) -> Tensor:
    """Specification of :func:`count_nonfinite`."""
    return torch.tensor([int((~t.isfinite()).sum()) for t in tensors], dtype=torch.int64)


@torch.library.register_fake("fgunlearn::score_accumulate_")
def _(score: list[Tensor], grad: list[Tensor], kind: str, weight: float) -> None:
    return None


@torch.library.register_fake("fgunlearn::count_nonfinite")
def _(tensors: list[Tensor]) -> Tensor:
    return torch.empty(len(tensors), dtype=torch.int64)
