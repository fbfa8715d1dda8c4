"""Clipping the gradient of the selected coordinates by its norm."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.distributed.processes import processes_of
from fgunlearn.optim.sparse import SparseOptimizer


@torch.no_grad()
def clip_grad_norm_(
    optimizer: SparseOptimizer, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """``torch.nn.utils.clip_grad_norm_`` over the gradient of the selected coordinates, in place.

    The norm is that of the sub-vector that the optimizer moves. Clipping the whole gradient instead, most of which is
    not used, would make the step on the selection far shorter than ``max_norm`` asks for. Gradients off the selection
    are neither read nor scaled. Takes gradients freed by ``free_grads`` too, which torch's own function can't.
    Of sharded parameters the norm is that of all processes together, all of which have to call this; each sends one
    number. With a ``GradScaler``, call ``scaler.unscale_(optimizer)`` first.

    Args:
        optimizer: a SparseOptimizer, after the backward pass.
        max_norm: the largest norm to leave, >= 0.
        norm_type: p of the p-norm, > 0; ``math.inf`` for the largest magnitude.
        error_if_nonfinite: raise where the norm is NaN or infinite; the gradients are unchanged.

    Returns:
        The norm before clipping, float32 (float64 where a parameter is), on the parameters' device. It is not waited
        for, unless ``error_if_nonfinite``.

    Raises:
        TypeError: another optimizer.
        ValueError: ``max_norm`` is negative or NaN, or ``norm_type`` is not a number > 0.
        RuntimeError: see ``error_if_nonfinite``.
    """
    if not isinstance(optimizer, SparseOptimizer):
        raise TypeError(f"optimizer must be a SparseOptimizer, got {type(optimizer).__name__}")
    max_norm = float(max_norm)
    if math.isnan(max_norm) or max_norm < 0:
        raise ValueError(f"max_norm must be >= 0, got {max_norm}")
    if isinstance(norm_type, bool) or not isinstance(norm_type, (int, float)) or not norm_type > 0:
        raise ValueError(f"norm_type must be a number > 0 or math.inf, got {norm_type!r}")
    found = optimizer.selected_gradients()
    params = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    processes = processes_of({f"parameter {t}": p for t, p in enumerate(params)})
    if not found and processes is None:
        return torch.tensor(0.0)
    dense = [(grad, slot.index) for slot, grad, gathered in found if not gathered]
    picked = ops.sparse_gather([grad for grad, _ in dense], [index for _, index in dense])
    values = [grad for _, grad, gathered in found if gathered] + picked
    slots = [slot for slot, _, gathered in found if gathered] + [slot for slot, _, gathered in found if not gathered]
    wide = torch.float64 if any(p.dtype == torch.float64 for p in params) else torch.float32
    counted = [v for v, slot in zip(values, slots, strict=True) if slot.layout is None or slot.layout.first]
    norms = [torch.linalg.vector_norm(v, float(norm_type), dtype=wide) for v in counted]
    norms = norms or [torch.zeros((), dtype=wide, device=params[0].device)]  # of a rank with nothing to count
    total = torch.linalg.vector_norm(torch.stack(norms), float(norm_type))
    if processes is not None:
        total = torch.linalg.vector_norm(processes.gather(total), float(norm_type))
    if error_if_nonfinite and not bool(total.isfinite()):
        raise RuntimeError(
            f"the norm of order {norm_type} of the selected gradient is {float(total)}, so it can't be clipped; pass "
            "error_if_nonfinite=False to scale by it anyway"
        )
    scale = torch.clamp(max_norm / (total + 1e-6), max=1.0)
    for v in values:
        v.copy_(v.to(wide) * scale)  # in v's own dtype a small scale could be 0
    if dense:
        ops.sparse_scatter_([grad for grad, _ in dense], [index for _, index in dense], picked)
    return total
