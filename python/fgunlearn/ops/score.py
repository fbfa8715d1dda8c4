"""Score accumulation: one fused pass per batch. Kernels: ``csrc/{cpu,cuda}/score.*``, ``csrc/cpu/isa/score.h``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fgunlearn.ops.devices import device_of
from fgunlearn.ops.select import empty_indices, topk_select_each_ref, topk_select_ref
from fgunlearn.ops.versions import mark_written

_ops = torch.ops.fgunlearn


def score_accumulate_(score: Sequence[Tensor], grad: Sequence[Tensor], kind: str, weight: float) -> None:
    """``score[t] += weight * f(grad[t])`` in place; f is g, |g| or g^2 for kind "grad", "abs_grad" or "fisher".

    Args:
        score: contiguous float32 tensors (float64 where grad is), on one device.
        grad: tensors of the same shapes, any supported dtype, on that device; a non-contiguous one is copied.
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


def score_accumulate_topk_(
    score: Sequence[Tensor], grad: Sequence[Tensor], kind: str, weight: float, k: Sequence[int], each: bool = False
) -> tuple[list[Tensor], Tensor]:
    """:func:`score_accumulate_`, then the top k of the new scores by magnitude: for the last batch of a score.

    On CUDA one fused pass, which reads no more than the accumulation alone; the host waits for its result. Not for
    ``torch.compile``, which has no rule for an op that writes to its arguments and returns a list.

    Args:
        score: as for :func:`score_accumulate_`.
        grad: as for :func:`score_accumulate_`.
        kind: as for :func:`score_accumulate_`.
        weight: as for :func:`score_accumulate_`.
        k: one number, how many of all; or with ``each`` one per tensor.
        each: select from each tensor by itself.

    Returns:
        Indices and threshold (thresholds with ``each``), as :func:`fgunlearn.ops.topk_select` and
        :func:`fgunlearn.ops.topk_select_each` give them.

    Raises:
        RuntimeError: what doesn't fit, or k out of range, and the scores are unchanged; a new score that is NaN or
            infinite (tensor and count are named), and the scores are the new ones.
    """
    try:
        return _ops.score_accumulate_topk_(list(score), list(grad), kind, weight, list(k), each)
    finally:
        mark_written(score)


def score_accumulate_topk_ref(
    score: Sequence[Tensor], grad: Sequence[Tensor], kind: str, weight: float, k: Sequence[int], each: bool = False
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Specification of :func:`score_accumulate_topk_`: the new scores, the indices and the threshold."""
    new = score_accumulate_ref(score, grad, kind, weight)
    indices, threshold = topk_select_each_ref(new, k) if each else topk_select_ref(new, k[0])
    return new, indices, threshold


def count_nonfinite(tensors: Sequence[Tensor]) -> Tensor:
    """The number of NaN and infinite elements of each tensor: int64 of shape (len(tensors),), on their device.

    One read, not synchronised with the host.
    """
    return _ops.count_nonfinite(list(tensors))


def count_nonfinite_ref(tensors: Sequence[Tensor]) -> Tensor:
    """Specification of :func:`count_nonfinite`."""
    return torch.tensor([int((~t.isfinite()).sum()) for t in tensors], dtype=torch.int64)


@torch.library.register_fake("fgunlearn::score_accumulate_")
def _(score: list[Tensor], grad: list[Tensor], kind: str, weight: float) -> None:
    return None


@torch.library.register_fake("fgunlearn::score_accumulate_topk_")
def _(
    score: list[Tensor], grad: list[Tensor], kind: str, weight: float, k: list[int], each: bool = False
) -> tuple[list[Tensor], Tensor]:
    device = device_of(score)
    indices = empty_indices([s.numel() for s in score], device)
    return indices, torch.empty(len(score) if each else 1, dtype=torch.float64, device=device)


@torch.library.register_fake("fgunlearn::count_nonfinite")
def _(tensors: list[Tensor]) -> Tensor:
    return torch.empty(len(tensors), dtype=torch.int64, device=device_of(tensors))
