"""A functional, differentiable add on the selected coordinates. Kernel: ``csrc/cpu/sparse_add.cpp``."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_ops = torch.ops.fgunlearn


def sparse_add(theta: Tensor, index: Tensor, delta: Tensor) -> Tensor:
    """``theta`` with ``delta`` added on the coordinates ``index``; theta itself is not changed.

    Differentiable, as often as one likes, in theta (d theta = grad) and delta (d delta = grad[index]): with
    ``torch.func.functional_call`` it trains a delta of size k instead of the n parameters. ``torch.vmap`` over any
    of the three makes one call for the whole batch. ``torch.func.grad`` and its kin don't reach an operator's
    registered derivative (torch 2.13 raises a RuntimeError); ``torch.autograd.grad`` does.

    Args:
        theta: a tensor of any shape, float32, float64, float16 or bfloat16.
        index: 1-D int32 or int64 C-order flat indices into theta, strictly ascending.
        delta: 1-D, one value per index, of theta's dtype or float32.

    Returns:
        A contiguous tensor of theta's shape and dtype. Sums are rounded once to theta's dtype.

    Raises:
        RuntimeError: an index out of range or out of order, a delta of another length or dtype.
    """
    return _ops.sparse_add(theta, index, delta)


def sparse_add_ref(theta: Tensor, index: Tensor, delta: Tensor) -> Tensor:
    """Specification of :func:`sparse_add`."""
    accumulate = torch.float64 if theta.dtype == torch.float64 else torch.float32
    flat = theta.reshape(-1)
    moved = flat[index.long()].to(accumulate) + delta.to(accumulate)
    return flat.index_copy(0, index.long(), moved.to(theta.dtype)).reshape(theta.shape)


@torch.library.register_fake("fgunlearn::sparse_add")
def _(theta: Tensor, index: Tensor, delta: Tensor) -> Tensor:
    return torch.empty(theta.shape, dtype=theta.dtype, device=theta.device)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    _, index, delta = inputs
    ctx.save_for_backward(index)
    ctx.delta_dtype = delta.dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
    # Ordinary differentiable torch operations, so that a second derivative exists.
    (index,) = ctx.saved_tensors
    wants_theta, _, wants_delta = ctx.needs_input_grad
    to_delta = grad.reshape(-1)[index.long()].to(ctx.delta_dtype) if wants_delta else None
    return grad if wants_theta else None, None, to_delta


@torch.library.register_vmap("fgunlearn::sparse_add")
def _(
    info: Any, in_dims: tuple[int | None, int | None, int | None], theta: Tensor, index: Tensor, delta: Tensor
) -> tuple[Tensor, int]:
    # The batch laid out as one longer tensor: the indices of its b-th entry are moved by b * numel, and ascend still.
    theta, index, delta = (
        x.movedim(dim, 0) if dim is not None else x.expand(info.batch_size, *x.shape)
        for x, dim in zip((theta, index, delta), in_dims, strict=True)
    )
    starts = torch.arange(info.batch_size, device=index.device) * math.prod(theta.shape[1:])
    at = (index.long() + starts.reshape(-1, 1)).reshape(-1)
    return _ops.sparse_add(theta, at, delta.reshape(-1)), 0


torch.library.register_autograd("fgunlearn::sparse_add", _backward, setup_context=_setup_context)
