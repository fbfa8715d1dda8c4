"""SPD-GAN's shift of a batch of inputs, differentiable in the inputs and in what a generator gives for them.

Kernels: ``csrc/{cpu,cuda}/spd_perturb.*``, arithmetic in ``csrc/core/spd_perturb.h``.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import torch
from torch import Tensor

NORMS = (None, "none", "l2", "linf")
"""What ``norm`` may be."""

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_ops = torch.ops.fgunlearn


def spd_perturb(
    x: Tensor,
    g: Tensor,
    *,
    eps: float | Tensor,
    norm: str | None = None,
    radius: float = 1.0,
    lo: float = 0.0,
    hi: float = 1.0,
    outside: str = "clamp",
) -> Tensor:
    """``clamp(x + delta, lo, hi)`` with ``delta = eps * tanh(g)``, scaled per sample into a ball if a norm is given.

    With a norm, the delta of each sample (the first dimension is the batch) is multiplied by
    ``min(1, radius / ||delta||)``, the norm taken over all its other dimensions.

    Computed in float32 (float64 for float64) and rounded once to x's dtype, after the clamp. NaN stays NaN; one in a
    sample's g makes the whole sample NaN where a norm is given. CPU and CUDA give the same bits without a norm; with
    one, to the rounding of a sum. The result does not depend on the number of threads or on timing.

    Differentiable once, in x and g; the norm's part of the derivative is included. Where the clamp cuts, both
    gradients are 0, and its limits themselves don't cut, as with ``torch.clamp``. On the sphere and inside the ball
    the delta is not scaled and the norm has no derivative; among several largest \\|delta_i\\| ``linf`` shares its
    derivative evenly, as ``torch.amax`` does.

    Args:
        x: (batch, ...), float32, float64, float16 or bfloat16. Contiguous and channels-last tensors are read in place,
            others are copied.
        g: of x's shape. One of another floating dtype than x, as under autocast, is converted to x's.
        eps: the largest step; finite and > 0. Or one per sample, a tensor of shape (batch,), which gets no gradient.
        norm: None or "none", "l2", "linf".
        radius: of the ball; finite and > 0.
        lo: least value of the result.
        hi: largest value of the result.
        outside: what becomes of an x outside [lo, hi] (or NaN): "clamp" clamps it with its delta, "error" raises. The
            latter waits for the device.

    Returns:
        A tensor of x's shape and dtype, channels-last where x is, else contiguous.

    Raises:
        ValueError: what doesn't fit, with its name and value.
        RuntimeError: a value in a per-sample eps that is not finite and > 0, on the CPU: on CUDA looking at it would
            wait for the device. A second derivative.
    """
    _check(x, g, eps, norm, radius, lo, hi, outside)
    if outside == "error":
        _check_inside(x, lo, hi)
    each, one = (eps, 0.0) if isinstance(eps, Tensor) else (None, float(eps))
    return _ops.spd_perturb(x, g.to(x.dtype), each, one, norm or "none", float(radius), float(lo), float(hi))[0]


def spd_perturb_ref(
    x: Tensor,
    g: Tensor,
    *,
    eps: float | Tensor,
    norm: str | None = None,
    radius: float = 1.0,
    lo: float = 0.0,
    hi: float = 1.0,
) -> Tensor:
    """Specification of :func:`spd_perturb`, and by autograd of its derivative."""
    accumulate = _accumulate(x)
    per_sample = (-1, *[1] * (x.dim() - 1))
    if isinstance(eps, Tensor):
        eps = eps.to(accumulate).reshape(per_sample)
    delta = eps * torch.tanh(g.to(x.dtype).to(accumulate))
    if norm not in (None, "none") and x.numel() > 0:
        rows = delta.reshape(x.shape[0], -1)
        size = torch.linalg.vector_norm(rows, dim=1) if norm == "l2" else rows.abs().amax(dim=1)
        size = torch.where(size <= radius, radius, size)  # inside the ball the scale is 1, and a constant
        delta = delta * (radius / size).reshape(per_sample)
    return torch.clamp(x.to(accumulate) + delta, lo, hi).to(x.dtype)


def _check(
    x: Tensor, g: Tensor, eps: float | Tensor, norm: str | None, radius: float, lo: float, hi: float, outside: str
) -> None:
    for name, tensor in (("x", x), ("g", g)):
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"spd_perturb: {name} must be float32, float64, float16 or bfloat16, got {tensor.dtype}")
    if x.dim() == 0:
        raise ValueError("spd_perturb: x must have a first dimension, the batch, and is a single number")
    if x.shape != g.shape:
        raise ValueError(f"spd_perturb: x has shape {tuple(x.shape)} and g {tuple(g.shape)}")
    if x.device != g.device:
        raise ValueError(f"spd_perturb: x is on {x.device} and g on {g.device}")
    if isinstance(eps, Tensor):
        _check_each_eps(eps, x)
    elif not 0 < eps < math.inf:
        raise ValueError(f"spd_perturb: eps must be finite and > 0, got {eps}")
    if norm not in NORMS:
        raise ValueError(f"spd_perturb: norm must be None, 'none', 'l2' or 'linf', got {norm!r}")
    if not 0 < radius < math.inf:
        raise ValueError(f"spd_perturb: radius must be finite and > 0, got {radius}")
    if not lo < hi:
        raise ValueError(f"spd_perturb: lo must be less than hi, got {lo} and {hi}")
    if outside not in ("clamp", "error"):
        raise ValueError(f"spd_perturb: outside must be 'clamp' or 'error', got {outside!r}")


def _check_each_eps(eps: Tensor, x: Tensor) -> None:
    if eps.dtype not in _DTYPES:
        raise ValueError(f"spd_perturb: eps must be float32, float64, float16 or bfloat16, got {eps.dtype}")
    if eps.shape != x.shape[:1]:
        raise ValueError(f"spd_perturb: eps must have shape ({x.shape[0]},), one per sample, got {tuple(eps.shape)}")
    if eps.device != x.device:
        raise ValueError(f"spd_perturb: x is on {x.device} and eps on {eps.device}")
    if eps.requires_grad:
        raise ValueError("spd_perturb: eps gets no gradient, but requires one; pass eps.detach()")


def _check_inside(x: Tensor, lo: float, hi: float) -> None:
    if x.numel() == 0:
        return
    least, most = (float(limit) for limit in torch.aminmax(x.detach()))  # NaN where there is one
    if not lo <= least:
        raise ValueError(f"spd_perturb: x must lie in [{lo}, {hi}], and holds {least}")
    if not most <= hi:
        raise ValueError(f"spd_perturb: x must lie in [{lo}, {hi}], and holds {most}")


def _accumulate(x: Tensor) -> torch.dtype:
    """In what the result is computed, and the type of the norms that the op returns beside it."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _empty_as_computed(x: Tensor) -> Tensor:
    """As the kernels lay out what has x's shape: as x where its samples are contiguous, else contiguous."""
    channels_last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    if x.is_contiguous() or (channels_last is not None and x.is_contiguous(memory_format=channels_last)):
        return torch.empty_like(x)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@torch.library.register_fake("fgunlearn::spd_perturb")
def _(
    x: Tensor, g: Tensor, eps_each: Tensor | None, eps: float, norm: str, radius: float, lo: float, hi: float
) -> tuple[Tensor, Tensor]:
    return _empty_as_computed(x), x.new_empty(0 if norm == "none" else x.shape[0], dtype=_accumulate(x))


@torch.library.register_fake("fgunlearn::spd_perturb_backward")
def _(
    grad: Tensor,
    x: Tensor,
    g: Tensor,
    norms: Tensor,
    eps_each: Tensor | None,
    eps: float,
    norm: str,
    radius: float,
    lo: float,
    hi: float,
    to_x: bool,
    to_g: bool,
) -> tuple[Tensor, Tensor]:
    dx, dg = (_empty_as_computed(x) if wanted else x.new_empty(0) for wanted in (to_x, to_g))
    return dx, dg


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, g, eps_each, *ctx.rule = inputs
    _, norms = output
    ctx.mark_non_differentiable(norms)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, g, norms, eps_each)


def _backward(ctx: Any, grad: Tensor | None, _: object) -> tuple[Tensor | None, ...]:
    to_x, to_g = ctx.needs_input_grad[:2]
    if grad is None:
        return (None,) * 8
    x, g, norms, eps_each = ctx.saved_tensors
    dx, dg = _ops.spd_perturb_backward(grad, x, g, norms, eps_each, *ctx.rule, to_x, to_g)
    return dx if to_x else None, dg if to_g else None, None, None, None, None, None, None


def _no_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    return None


def _no_second_derivative(ctx: Any, *grads: Tensor) -> NoReturn:
    raise RuntimeError(
        "spd_perturb: there is no second derivative; take it of fgunlearn.ops.spd_perturb.spd_perturb_ref, the same in "
        "plain torch operations, or don't differentiate through the gradient (create_graph)"
    )


torch.library.register_autograd("fgunlearn::spd_perturb", _backward, setup_context=_setup_context)
torch.library.register_autograd("fgunlearn::spd_perturb_backward", _no_second_derivative, setup_context=_no_context)
