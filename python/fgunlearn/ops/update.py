"""Optimizer steps on the selected coordinates. Kernels: ``csrc/cpu/update.cpp``, ``csrc/cuda/update.cu``; their rules:
``csrc/core/update.h``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fgunlearn.ops.philox import philox4x32_ref
from fgunlearn.ops.versions import mark_written

ROUNDING_STREAM = 4
"""Philox stream of stochastic rounding (``Stream`` in ``csrc/core/philox.h``)."""

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
    *,
    lr_tensor: Tensor | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    gathered: bool = False,
    rounding_seed: int | None = None,
    step: Sequence[Tensor] = (),
    offsets: Sequence[int] = (),
) -> None:
    """One step of ``torch.optim.SGD`` on the sub-vector of the selected coordinates, in place.

    Off the selection nothing is read or written. In float32 (float64 for float64 parameters), rounded to the
    parameter's dtype.

    Args:
        param: tensors of any shapes and strides, but not expanded.
        grad: of the same dtypes and shapes; with ``gathered`` 1-D, one value per index.
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
        lr_tensor: float32 or float64 of one element, in place of ``lr``. On CUDA it is read on the device, without a
            synchronisation; so are all the following tensors.
        grad_scale: likewise; what the gradients were multiplied by.
        found_inf: likewise; other than 0, nothing moves.
        gathered: ``grad`` holds the selected values only.
        rounding_seed: round bfloat16 parameters up or down at random, without bias; None to the nearest. The bits are a
            function of (seed, step, global index).
        step: with ``rounding_seed`` per tensor a float32 or float64 tensor of one element, the count of this step from
            1 on.
        offsets: with ``rounding_seed`` per tensor the global index of its first element.

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
        lr_tensor,
        grad_scale,
        found_inf,
        gathered,
        rounding_seed,
        list(step),
        list(offsets),
    )
    mark_written(param, momentum_buffer)


def sparse_adam_(
    param: Sequence[Tensor],
    grad: Sequence[Tensor],
    indices: Sequence[Tensor],
    exp_avg: Sequence[Tensor],
    exp_avg_sq: Sequence[Tensor],
    max_exp_avg_sq: Sequence[Tensor],
    step: Sequence[Tensor],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    amsgrad: bool,
    maximize: bool,
    *,
    lr_tensor: Tensor | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    gathered: bool = False,
    rounding_seed: int | None = None,
    offsets: Sequence[int] = (),
) -> None:
    """One step of ``torch.optim.Adam`` or ``AdamW`` on the sub-vector of the selected coordinates, in place.

    Off the selection nothing is read or written. In float32 (float64 for float64 parameters), rounded to the
    parameter's dtype.

    Args:
        param: tensors of any shapes and strides, but not expanded.
        grad: of the same dtypes and shapes; with ``gathered`` 1-D, one value per index.
        indices: per tensor 1-D int32 or int64 flat indices, strictly ascending.
        exp_avg: per tensor float32 (float64) with one value per index, updated in place.
        exp_avg_sq: likewise.
        max_exp_avg_sq: likewise with ``amsgrad``, else an empty list.
        step: per tensor float32 or float64 of one element, the count of this step from 1 on; not changed. On CUDA it
            may lie on the CPU or on the device.
        lr: learning rate.
        beta1: in [0, 1).
        beta2: in [0, 1).
        eps: see torch.
        weight_decay: see torch.
        decoupled: AdamW's weight decay, which multiplies the parameter, instead of Adam's, which adds to the gradient.
        amsgrad: see torch.
        maximize: see torch.
        lr_tensor: as for :func:`sparse_sgd_`, like the following.
        grad_scale: as for :func:`sparse_sgd_`.
        found_inf: as for :func:`sparse_sgd_`.
        gathered: as for :func:`sparse_sgd_`.
        rounding_seed: as for :func:`sparse_sgd_`.
        offsets: as for :func:`sparse_sgd_`.

    Raises:
        RuntimeError: what doesn't fit; parameters and moments are unchanged.
    """
    _ops.sparse_adam_(
        list(param),
        list(grad),
        list(indices),
        list(exp_avg),
        list(exp_avg_sq),
        list(max_exp_avg_sq),
        list(step),
        lr,
        beta1,
        beta2,
        eps,
        weight_decay,
        decoupled,
        amsgrad,
        maximize,
        lr_tensor,
        grad_scale,
        found_inf,
        gathered,
        rounding_seed,
        list(offsets),
    )
    mark_written(param, exp_avg, exp_avg_sq, max_exp_avg_sq)


def whole_power_ref(base: float, n: int) -> float:
    """``base**n`` by squaring, as the kernels compute it: the same bits on every device."""
    product = 1.0
    while n:
        if n & 1:
            product *= base
        base *= base
        n >>= 1
    return product


def root_ref(value: Tensor) -> Tensor:
    """The square root, correctly rounded in float32, which torch's own, by way of MKL, is not always on the CPU."""
    return value.double().sqrt().to(value.dtype)


def round_at_random_ref(value: Tensor, seed: int, step: int, global_index: Tensor) -> Tensor:
    """float32 to bfloat16, up or down with probabilities that make the mean exact; NaN and infinity stay."""
    noise = philox4x32_ref(seed, ROUNDING_STREAM, global_index, step)[0] & 0xFFFF
    pattern = value.view(torch.int32).long() & 0xFFFFFFFF
    moved = ((pattern + noise) >> 16).to(torch.int32)
    signed = torch.where(moved >= 0x8000, moved - 0x10000, moved).to(torch.int16)
    return torch.where(value.isfinite(), signed.view(torch.bfloat16), value.to(torch.bfloat16))


class _Coordinates:
    """The selected values of one parameter, in the type they are updated in."""

    def __init__(
        self, param: Tensor, grad: Tensor, index: Tensor, *, maximize: bool, scale: Tensor | None, gathered: bool
    ) -> None:
        self.at = index.long()
        self.dtype = torch.float64 if param.dtype == torch.float64 else torch.float32
        self.flat = param.reshape(-1).clone()
        self.shape = param.shape
        self.value = self.flat[self.at].to(self.dtype)
        selected = grad if gathered else grad.reshape(-1)[self.at]
        factor = (-1.0 if maximize else 1.0) / (1.0 if scale is None else float(scale))
        self.grad = selected.to(self.dtype) * self.constant(factor)

    def constant(self, value: float) -> Tensor:
        """Rounded once, before it meets a tensor."""
        return torch.tensor(value, dtype=self.dtype, device=self.flat.device)

    def moved_to(self, value: Tensor, rounding_seed: int | None, step: Tensor | None, offset: int) -> Tensor:
        """The parameter with its selected coordinates replaced."""
        if rounding_seed is not None and self.flat.dtype == torch.bfloat16:
            assert step is not None
            self.flat[self.at] = round_at_random_ref(value, rounding_seed, int(step), self.at + offset)
        else:
            self.flat[self.at] = value.to(self.flat.dtype)
        return self.flat.reshape(self.shape)


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
    *,
    lr_tensor: Tensor | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    gathered: bool = False,
    rounding_seed: int | None = None,
    step: Sequence[Tensor] = (),
    offsets: Sequence[int] = (),
) -> tuple[list[Tensor], list[Tensor]]:
    """Specification of :func:`sparse_sgd_`, bit for bit: the new parameters, contiguous, and the new buffers."""
    if found_inf is not None and float(found_inf) != 0:
        return [p.clone() for p in param], [b.clone() for b in momentum_buffer]
    params, buffers = [], []
    for t, (p, g) in enumerate(zip(param, grad, strict=True)):
        c = _Coordinates(p, g, indices[t], maximize=maximize, scale=grad_scale, gathered=gathered)
        direction = c.grad
        if weight_decay != 0:
            direction = direction + c.constant(weight_decay) * c.value
        if momentum != 0:
            kept = c.constant(momentum) * momentum_buffer[t]
            buffer = direction if first[t] else kept + c.constant(1 - dampening) * direction
            buffers.append(buffer)
            direction = direction + c.constant(momentum) * buffer if nesterov else buffer
        rate = c.constant(lr if lr_tensor is None else float(lr_tensor))
        count, offset = (step[t], offsets[t]) if rounding_seed is not None else (None, 0)
        params.append(c.moved_to(c.value - rate * direction, rounding_seed, count, offset))
    return params, buffers


def sparse_adam_ref(
    param: Sequence[Tensor],
    grad: Sequence[Tensor],
    indices: Sequence[Tensor],
    exp_avg: Sequence[Tensor],
    exp_avg_sq: Sequence[Tensor],
    max_exp_avg_sq: Sequence[Tensor],
    step: Sequence[Tensor],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    amsgrad: bool,
    maximize: bool,
    *,
    lr_tensor: Tensor | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    gathered: bool = False,
    rounding_seed: int | None = None,
    offsets: Sequence[int] = (),
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Specification of :func:`sparse_adam_`, bit for bit but for float64's square roots.

    Returns:
        The new parameters, contiguous, and the new exp_avg, exp_avg_sq and max_exp_avg_sq.
    """
    new: tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]] = ([], [], [], [])
    if found_inf is not None and float(found_inf) != 0:
        for made, was in zip(new, (param, exp_avg, exp_avg_sq, max_exp_avg_sq), strict=True):
            made.extend(tensor.clone() for tensor in was)
        return new
    rate = lr if lr_tensor is None else float(lr_tensor)
    for t, (p, g) in enumerate(zip(param, grad, strict=True)):
        c = _Coordinates(p, g, indices[t], maximize=maximize, scale=grad_scale, gathered=gathered)
        step_size = c.constant(rate / (1 - whole_power_ref(beta1, int(step[t]))))
        correction = c.constant(math.sqrt(1 - whole_power_ref(beta2, int(step[t]))))
        gradient = c.grad
        if weight_decay != 0 and not decoupled:
            gradient = gradient + c.constant(weight_decay) * c.value
        weight = c.constant(1 - beta1)
        if weight < 0.5:
            first = exp_avg[t] + weight * (gradient - exp_avg[t])
        else:
            first = gradient - (gradient - exp_avg[t]) * (1 - weight)
        second = c.constant(beta2) * exp_avg_sq[t] + c.constant(1 - beta2) * gradient * gradient
        spread = torch.maximum(max_exp_avg_sq[t], second) if amsgrad else second
        kept = c.constant(1 - rate * weight_decay if decoupled else 1.0) * c.value
        value = kept - step_size * first / (root_ref(spread) / correction + c.constant(eps))
        offset = offsets[t] if rounding_seed is not None else 0
        new[0].append(c.moved_to(value, rounding_seed, step[t], offset))
        new[1].append(first)
        new[2].append(second)
        if amsgrad:
            new[3].append(spread)
    return new


@torch.library.register_fake("fgunlearn::sparse_sgd_")
def _(*arguments: object) -> None:
    return None


@torch.library.register_fake("fgunlearn::sparse_adam_")
def _(*arguments: object) -> None:
    return None
