"""Adding to the selected coordinates and taking them, as functions: each is the other's derivative.

Kernels: ``csrc/{cpu,cuda}/sparse_add.*``, ``csrc/{cpu,cuda}/gather.*``.
"""

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
        index: 1-D int32 or int64 C-order flat indices into theta, on its device, strictly ascending.
        delta: 1-D, one value per index, of theta's dtype or float32.

    Returns:
        A contiguous tensor of theta's shape and dtype. Sums are rounded once to theta's dtype.

    Raises:
        RuntimeError: a delta of another length or dtype; on the CPU an index out of range or out of order (on CUDA see
            :func:`fgunlearn.ops.sparse_gather`).
    """
    return _ops.sparse_add(theta, index, delta)


def sparse_add_ref(theta: Tensor, index: Tensor, delta: Tensor) -> Tensor:
    """Specification of :func:`sparse_add`."""
    accumulate = torch.float64 if theta.dtype == torch.float64 else torch.float32
    flat = theta.reshape(-1)
    moved = flat[index.long()].to(accumulate) + delta.to(accumulate)
    return flat.index_copy(0, index.long(), moved.to(theta.dtype)).reshape(theta.shape)


def sparse_take(theta: Tensor, index: Tensor) -> Tensor:
    """The coordinates ``index`` of theta, bit for bit: ``theta.reshape(-1)[index]`` without a widened index.

    Differentiable as often as one likes (d theta = :func:`sparse_add` of the gradient onto zeros); ``torch.vmap`` makes
    one call for the whole batch. :func:`fgunlearn.ops.sparse_gather` takes from many tensors at once.

    Args:
        theta: a tensor of any shape and strides, float32, float64, float16 or bfloat16.
        index: as for :func:`sparse_add`.

    Returns:
        A 1-D tensor of theta's dtype, one value per index.

    Raises:
        RuntimeError: on the CPU an index out of range or out of order (on CUDA see
            :func:`fgunlearn.ops.sparse_gather`).
    """
    return _ops.sparse_take(theta, index)


def sparse_take_ref(theta: Tensor, index: Tensor) -> Tensor:
    """Specification of :func:`sparse_take`."""
    return theta.reshape(-1)[index.long()]


@torch.library.register_fake("fgunlearn::sparse_take")
def _(theta: Tensor, index: Tensor) -> Tensor:
    return theta.new_empty(index.shape)


@torch.library.register_fake("fgunlearn::sparse_add")
def _(theta: Tensor, index: Tensor, delta: Tensor) -> Tensor:
    return torch.empty(theta.shape, dtype=theta.dtype, device=theta.device)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    _, index, delta = inputs
    ctx.save_for_backward(index)
    ctx.delta_dtype = delta.dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
    (index,) = ctx.saved_tensors
    wants_theta, _, wants_delta = ctx.needs_input_grad
    to_delta = _ops.sparse_take(grad, index).to(ctx.delta_dtype) if wants_delta else None
    return grad if wants_theta else None, None, to_delta


@torch.library.register_vmap("fgunlearn::sparse_add")
def _(
    info: Any, in_dims: tuple[int | None, int | None, int | None], theta: Tensor, index: Tensor, delta: Tensor
) -> tuple[Tensor, int]:
    theta_dim, index_dim, delta_dim = in_dims
    theta, at = _one_longer_tensor(info.batch_size, theta, theta_dim, index, index_dim)
    delta = delta.movedim(delta_dim, 0) if delta_dim is not None else delta.expand(info.batch_size, *delta.shape)
    return _ops.sparse_add(theta, at, delta.reshape(-1)), 0


def _setup_take(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    theta, index = inputs
    ctx.save_for_backward(index)
    ctx.shape = theta.shape


def _backward_of_take(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (index,) = ctx.saved_tensors
    return _ops.sparse_add(grad.new_zeros(()).expand(ctx.shape), index, grad), None


@torch.library.register_vmap("fgunlearn::sparse_take")
def _(info: Any, in_dims: tuple[int | None, int | None], theta: Tensor, index: Tensor) -> tuple[Tensor, int]:
    theta, at = _one_longer_tensor(info.batch_size, theta, in_dims[0], index, in_dims[1])
    return _ops.sparse_take(theta, at).reshape(info.batch_size, -1), 0


def _one_longer_tensor(
    batch: int, x: Tensor, x_dim: int | None, index: Tensor, index_dim: int | None
) -> tuple[Tensor, Tensor]:
    """A batch of tensors as one with the batch in front, and the batch's indices as one list of indices into it.

    The indices of the b-th tensor are moved by b times its number of elements, and ascend still.
    """
    x = x.movedim(x_dim, 0) if x_dim is not None else x.expand(batch, *x.shape)
    index = index.movedim(index_dim, 0) if index_dim is not None else index.expand(batch, *index.shape)
    starts = torch.arange(batch, device=index.device) * math.prod(x.shape[1:])
    return x, (index.long() + starts.reshape(-1, 1)).reshape(-1)


torch.library.register_autograd("fgunlearn::sparse_take", _backward_of_take, setup_context=_setup_take)
torch.library.register_autograd("fgunlearn::sparse_add", _backward, setup_context=_setup_context)
