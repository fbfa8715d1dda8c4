"""Gradients of the selected coordinates: where they are found, and how they take the place of dense ones."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from fgunlearn import ops
from fgunlearn.distributed.layout import is_dtensor, local_part
from fgunlearn.optim.matching import Slot


class FreedPart(Tensor):
    """The selected values of a DTensor's gradient in the place of this process's part of it.

    FSDP2 adds the next micro-batch's part to it in place: the dense sum takes its place, to be freed in its turn.

    Attributes:
        selected: the k values.
        at: the k flat indices into the part.
    """

    selected: Tensor
    at: Tensor

    @staticmethod
    def __new__(cls, slot: Slot, values: Tensor) -> FreedPart:
        """The values of the slot's coordinates, where a part of its shape is expected."""
        made: FreedPart = torch.Tensor._make_wrapper_subclass(
            cls, slot.local_shape, dtype=values.dtype, device=values.device
        )
        made.selected, made.at = values, slot.index
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"FreedPart({self.selected.numel()} of {self.numel()} values)"

    def __iadd__(self, other: Tensor) -> Tensor:  # type: ignore[override, misc]
        values = ops.sparse_gather([other], [self.at])[0]
        ops.sparse_scatter_([other], [self.at], [values.add_(self.selected)])
        return other

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if func is torch.ops.aten.zero_.default:
            args[0].selected.zero_()
            return args[0]
        if func is torch.ops.aten._foreach_zero_.default:
            for part in args[0]:
                part.selected.zero_() if isinstance(part, FreedPart) else part.zero_()
            return None
        if func is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(
            f"free_grads=True has left only the selected values of a sharded gradient, on which {func} is not defined"
        )


def selected_gradient(p: Tensor, slot: Slot) -> tuple[Tensor, bool] | None:
    """The gradient of one parameter, and whether it holds the selected values alone; None where there is none.

    Of a DTensor it is this process's part of the gradient.

    Raises:
        TypeError: a sparse gradient that is not one of the selected coordinates, or one of another dtype.
        ValueError: a gradient of another shape, device or sharding, or the parameter itself changed.
    """
    grad = p.grad
    if grad is None:
        return None
    slot.check(p)
    if slot.layout is not None:
        placements = tuple(getattr(grad, "placements", ()))
        if placements != slot.layout.placements:
            raise ValueError(
                f"the gradient of parameter {slot.label} must have the parameter's placements "
                f"{slot.layout.placements}, got {placements}: redistribute it before the step"
            )
    if grad.dtype != p.dtype:
        raise TypeError(f"the gradient of parameter {slot.label} must be {str(p.dtype)[6:]}, got {str(grad.dtype)[6:]}")
    if grad.shape != p.shape or grad.device != p.device:
        raise ValueError(
            f"the gradient of parameter {slot.label} must have shape {tuple(p.shape)} on {p.device}, got "
            f"{tuple(grad.shape)} on {grad.device}"
        )
    if is_dtensor(grad) and isinstance(grad._local_tensor, FreedPart):
        return grad._local_tensor.selected, True
    grad = local_part(grad)
    if grad.layout == torch.strided:
        return grad, False
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
    if is_dtensor(grad) and isinstance(grad._local_tensor, FreedPart):
        return
    if slot.k == 0:
        p.grad = None
        return
    slot.check(p)
    values = ops.sparse_gather([local_part(grad)], [slot.index])[0]
    if is_dtensor(p):
        dtensor: Any = grad
        # Not DTensor.from_local, which takes a view.
        p.grad = type(dtensor)(FreedPart(slot, values), dtensor._spec, requires_grad=False)
        return
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
