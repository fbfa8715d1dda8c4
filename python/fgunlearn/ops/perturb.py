"""Perturbing the selected coordinates in one launch. Kernels: ``csrc/{cpu,cuda}/perturb.*``, rules ``csrc/core``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fgunlearn.ops.devices import device_of
from fgunlearn.ops.philox import philox4x32_ref
from fgunlearn.ops.versions import mark_written

GAUSSIAN_STREAM = 2
"""Philox stream of Gaussian perturbations (``Stream`` in ``csrc/core/philox.h``)."""

RESET_STREAM = 3
"""Philox stream of redraws from the initial distribution."""

_ops = torch.ops.fgunlearn


def sparse_perturb_(
    theta: Sequence[Tensor],
    indices: Sequence[Tensor],
    draw: Sequence[str],
    keep: Sequence[float],
    shift: Sequence[float],
    scale: Sequence[float],
    seed: int,
    stream: int,
    offsets: Sequence[int],
) -> None:
    """``theta_i = keep * theta_i + shift + scale * draw_i`` on the selected coordinates, in place.

    Computed in float64 and rounded once (float16 and bfloat16 by way of float32). The noise is a pure function of
    (seed, stream, global index): offsets[t] + C-order flat index.

    Args:
        theta: tensors of any shapes and strides, but not expanded.
        indices: per tensor 1-D int32 or int64 flat indices, strictly ascending.
        draw: per tensor "none", "normal" (N(0, 1), Box and Muller) or "uniform" (on [0, 1)).
        keep: per tensor; 0 does not look at theta, so that NaN or infinity does not survive.
        shift: per tensor.
        scale: per tensor.
        seed: any 64-bit integer.
        stream: purpose of the draw, 32 bits; see ``csrc/core/philox.h``.
        offsets: per tensor the global index of its first element.

    Raises:
        RuntimeError: lengths that differ, an index out of range or out of order, a non-finite factor; theta is
            unchanged.
    """
    _ops.sparse_perturb_(
        list(theta), list(indices), list(draw), list(keep), list(shift), list(scale), seed, stream, list(offsets)
    )
    mark_written(theta)


def draw_ref(draw: str, seed: int, stream: int, global_index: Tensor) -> Tensor:
    """The numbers :func:`sparse_perturb_` draws, float64: uniforms exactly, normals to rounding of log, sqrt, cos."""
    if draw == "none":
        return torch.zeros(global_index.shape, dtype=torch.float64)
    words = philox4x32_ref(seed, stream, global_index).double() / 2.0**32
    if draw == "uniform":
        return words[0]
    return torch.sqrt(-2.0 * torch.log(words[0] + 2.0**-32)) * torch.cos(2.0 * math.pi * words[1])


def sparse_perturb_ref(
    theta: Sequence[Tensor],
    indices: Sequence[Tensor],
    draw: Sequence[str],
    keep: Sequence[float],
    shift: Sequence[float],
    scale: Sequence[float],
    seed: int,
    stream: int,
    offsets: Sequence[int],
) -> list[Tensor]:
    """Specification of :func:`sparse_perturb_`: the new tensors, contiguous."""
    new = []
    for t, x in enumerate(theta):
        index = indices[t].long()
        flat = x.reshape(-1).clone()
        kept = flat[index].double() * keep[t] if keep[t] != 0 else torch.zeros(index.shape, dtype=torch.float64)
        moved = kept + shift[t] + scale[t] * draw_ref(draw[t], seed, stream, index + offsets[t])
        if x.dtype != torch.float64:
            moved = moved.float()
        flat[index] = moved.to(x.dtype)
        new.append(flat.reshape(x.shape))
    return new


def sparse_ascent_(theta: Sequence[Tensor], grads: Sequence[Tensor], indices: Sequence[Tensor], lr: float) -> None:
    """``theta_i += lr * grad_i`` on the selected coordinates, in place; in float32 (float64 for float64).

    Args:
        theta: tensors of any shapes and strides, but not expanded.
        grads: of the same shapes and dtypes.
        indices: per tensor 1-D int32 or int64 flat indices, strictly ascending.
        lr: finite.

    Raises:
        RuntimeError: what doesn't fit; theta is unchanged.
    """
    _ops.sparse_ascent_(list(theta), list(grads), list(indices), lr)
    mark_written(theta)


def sparse_ascent_ref(
    theta: Sequence[Tensor], grads: Sequence[Tensor], indices: Sequence[Tensor], lr: float
) -> list[Tensor]:
    """Specification of :func:`sparse_ascent_`: the new tensors, contiguous."""
    new = []
    for x, g, index in zip(theta, grads, indices, strict=True):
        at = index.long()
        accumulate = torch.float64 if x.dtype == torch.float64 else torch.float32
        flat = x.reshape(-1).clone()
        step = torch.tensor(lr, dtype=accumulate) * g.reshape(-1)[at].to(accumulate)
        flat[at] = (flat[at].to(accumulate) + step).to(x.dtype)
        new.append(flat.reshape(x.shape))
    return new


def rms(tensors: Sequence[Tensor]) -> Tensor:
    """``sqrt(mean(x^2))`` of each tensor, float64 of shape (len(tensors),); 0 for an empty one.

    Summed in float64 in an order fixed for the device: the bits don't depend on the number of threads, and those of the
    CPU and CUDA agree to a few units of the last place. Not synchronised with the host.
    """
    return _ops.rms(list(tensors))


def rms_ref(tensors: Sequence[Tensor]) -> Tensor:
    """Specification of :func:`rms`, to the rounding of a sum."""
    values = [t.double().pow(2).mean().sqrt() if t.numel() else torch.tensor(0.0) for t in tensors]
    return torch.tensor([float(v) for v in values], dtype=torch.float64)


@torch.library.register_fake("fgunlearn::sparse_perturb_")
def _(
    theta: list[Tensor],
    indices: list[Tensor],
    draw: list[str],
    keep: list[float],
    shift: list[float],
    scale: list[float],
    seed: int,
    stream: int,
    offsets: list[int],
) -> None:
    return None


@torch.library.register_fake("fgunlearn::sparse_ascent_")
def _(theta: list[Tensor], grads: list[Tensor], indices: list[Tensor], lr: float) -> None:
    return None


@torch.library.register_fake("fgunlearn::rms")
def _(tensors: list[Tensor]) -> Tensor:
    return torch.empty(len(tensors), dtype=torch.float64, device=device_of(tensors))
