"""Optimizer steps on the selected coordinates. Kernel: ``csrc/cpu/update.cpp``, rules in ``csrc/core/update.h``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fgunlearn.ops.versions import mark_written

_ops = torch.ops.fgunlearn


def sparse_sgd_(
    param: Sequence[Tensor],
    grad: Sequence[Tensor],
    indices: Sequence[Tensor],
    momentum_buffer: Sequence[Tensor],
    first: Sequence[int],
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    """One step of ``torch.optim.SGD`` on the sub-vector of the selected coordinates, in place.

    Off the selection nothing is read or written. In float32 (float64 for float64 parameters), rounded to the
    parameter's dtype.

    Args:
        param: tensors of any shapes and strides, but not expanded.
        grad: of the same shapes and dtypes.
        indices: per tensor 1-D int32 or int64 flat indices, strictly ascending.
        momentum_buffer: per tensor float32 (float64) with one value per index, updated in place; an empty list when
            momentum is 0.
        first: per tensor 1 on its first step, which sets the buffer to the gradient, else 0.
        lr: learning rate.
        momentum: as torch's, like the following.
        dampening: see torch.
        weight_decay: see torch.
        nesterov: see torch.
        maximize: see torch.

    Raises:
        RuntimeError: what doesn't fit; parameters and buffers are unchanged.
    """
    _ops.sparse_sgd_(
        list(param),
        list(grad),
        list(indices),
        list(momentum_buffer),
        list(first),
        lr,
        momentum,
        dampening,
        weight_decay,
        nesterov,
        maximize,
    )
    mark_written(param, momentum_buffer)


def sparse_sgd_ref(
    param: Sequence[Tensor],
    grad: Sequence[Tensor],
    indices: Sequence[Tensor],
    momentum_buffer: Sequence[Tensor],
    first: Sequence[int],
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Specification of :func:`sparse_sgd_`: the new parameters, contiguous, and the new buffers."""
    params, buffers = [], []
    for t, (p, g) in enumerate(zip(param, grad, strict=True)):
        at = indices[t].long()
        accumulate = torch.float64 if p.dtype == torch.float64 else torch.float32
        flat = p.reshape(-1).clone()
        value = flat[at].to(accumulate)
        step = g.reshape(-1)[at].to(accumulate)
        step = -step if maximize else step
        if weight_decay != 0:
            step = step + weight_decay * value
        if momentum != 0:
            buffer = step if first[t] else momentum * momentum_buffer[t] + (1 - dampening) * step
            buffers.append(buffer)
            step = step + momentum * buffer if nesterov else buffer
        flat[at] = (value - lr * step).to(p.dtype)
        params.append(flat.reshape(p.shape))
    return params, buffers


@torch.library.register_fake("fgunlearn::sparse_sgd_")
def _(
    param: list[Tensor],
    grad: list[Tensor],
    indices: list[Tensor],
    momentum_buffer: list[Tensor],
    first: list[int],
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    return None
