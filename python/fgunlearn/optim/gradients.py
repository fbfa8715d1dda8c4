"""Gradients of the selected coordinates: where they are found, and how they take the place of dense ones."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from fgunlearn import ops
from fgunlearn.optim.matching import Slot


def selected_gradient(p: Tensor, slot: Slot) -> tuple[Tensor, bool] | None:
    """The gradient of one parameter, and whether it holds the selected values alone; None where there is none.

    Raises:
        TypeError: a sparse gradient that is not one of the selected coordinates, or one of another dtype.
        ValueError: a gradient of another shape or device, or the parameter itself changed.
    """
    grad = p.grad
    if grad is None:
        return None
    slot.check(p)
    if grad.dtype != p.dtype:
        raise TypeError(f"the gradient of parameter {slot.label} must be {str(p.dtype)[6:]}, got {str(grad.dtype)[6:]}")
    if grad.shape != p.shape or grad.device != p.device:
        raise ValueError(
            f"the gradient of parameter {slot.label} must have shape {tuple(p.shape)} on {p.device}, got "
            f"{tuple(grad.shape)} on {grad.device}"
        )
    if grad.layout == torch.strided:
        return grad.detach(), False
    if grad.layout == torch.sparse_coo and grad.dense_dim() == 0 and grad._nnz() == 0:
        return torch.zeros(slot.k, dtype=p.dtype, device=p.device), True  # after zero_grad(set_to_none=False)
    if not _is_selected(grad, slot):
        raise TypeError(f"the gradient of parameter {slot.label} must be dense, got layout {grad.layout}")
    return grad._values(), True


def _is_selected(grad: Tensor, slot: Slot) -> bool:
    if grad.layout != torch.sparse_coo or grad._nnz() != slot.k or not grad._values().is_contiguous():
        return False
    coordinates = slot.coordinates()
    found = grad._indices()
    return found.data_ptr() == coordinates.data_ptr() or torch.equal(found, coordinates)


@torch.compiler.disable
@torch.no_grad()
def free_gradient(p: Tensor, slot: Slot) -> None:
    """Puts a sparse gradient of the selected coordinates in the place of ``p.grad``, which frees the dense one.

    torch adds the gradient of the next micro-batch to it, and ``GradScaler`` unscales and checks its values.
    """
    grad = p.grad
    # A scalar has nothing to free; one with a graph of its own (create_graph) is the user's to differentiate.
    if grad is None or grad.layout != torch.strided or grad.dim() == 0 or grad.requires_grad:
        return
    if slot.k == 0:
        p.grad = None
        return
    slot.check(p)
    values = ops.sparse_gather([grad], [slot.index])[0]
    p.grad = torch.sparse_coo_tensor(slot.coordinates(), values, grad.shape, is_coalesced=True, check_invariants=False)


def hook_gradients(optimizer: Any, slots: Mapping[Tensor, Slot]) -> list[RemovableHandle]:
    """Frees each gradient as soon as it is accumulated, for as long as the optimizer lives or until it lets go."""
    # A parameter outlives its optimizer: its hook must keep neither that nor a slot alive.
    alive = weakref.ref(optimizer)

    def hook_of(slot: Slot) -> Callable[[Tensor], None]:
        of_p = weakref.ref(slot)

        def hook(p: Tensor) -> None:
            slot = of_p()
            if slot is not None and alive() is not None:
                free_gradient(p, slot)

        return hook

    return [p.register_post_accumulate_grad_hook(hook_of(slot)) for p, slot in slots.items() if p.requires_grad]
