"""An optimizer that updates the selected coordinates and leaves every other bit alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.parameters import check_tensors
from fgunlearn.selection.selection import Selection

SUPPORTED = (torch.optim.SGD,)


class SparseOptimizer(torch.optim.Optimizer):
    """Wraps a torch optimizer so that its steps touch the selected coordinates only, with state of size k.

    What is optimised is the sub-vector of the selected coordinates, as if there were no others: momentum and weight
    decay act on them alone, where a dense optimizer with masked gradients would decay and move the rest as well.

    The param groups are the wrapped optimizer's own, so changes of lr, momentum or weight decay in either take effect
    at the next step, and LR schedulers work. Each step is one kernel launch per group: k coordinates of gradient,
    parameter and momentum are read, k of parameter and momentum written.

    Args:
        optimizer: a new ``torch.optim.SGD`` over the parameters the selection was made for, in their order.
        selection: which coordinates; matched to the optimizer's parameters that require grad by position and shape.

    Raises:
        TypeError: another optimizer type (the supported ones are listed), or an unsupported parameter.
        ValueError: the selection was made for other parameters.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, selection: Selection) -> None:
        if type(optimizer) not in SUPPORTED:
            supported = ", ".join(f"torch.optim.{kind.__name__}" for kind in SUPPORTED)
            raise TypeError(f"optimizer must be one of {supported}, got {type(optimizer).__name__}")
        if not isinstance(selection, Selection):
            raise TypeError(f"selection must be a Selection, got {type(selection).__name__}")
        self._indices = _indices_by_parameter(optimizer, selection)
        self.selection = selection
        super().__init__(optimizer.param_groups, optimizer.defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuses parameters that the selection does not know; the wrapped optimizer's own groups pass."""
        known = [p for p in param_group["params"] if p.requires_grad and p not in self._indices]
        if known:
            raise ValueError(
                f"the selection has no coordinates for a parameter of shape {tuple(known[0].shape)}: "
                "make a selection for all parameters and wrap a new optimizer"
            )
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on the selected coordinates; parameters without a gradient are skipped, as torch does.

        Args:
            closure: re-evaluates the model and returns the loss.

        Raises:
            TypeError: a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        params: list[Tensor] = []
        for p in group["params"]:
            if p.grad is None or p not in self._indices or self._indices[p].numel() == 0:
                continue
            if p.grad.layout != torch.strided:
                raise TypeError(f"a gradient of shape {tuple(p.shape)} must be dense, got layout {p.grad.layout}")
            params.append(p)
        if not params:
            return
        momentum = float(group["momentum"])
        buffers: list[Tensor] = []
        first: list[int] = []
        if momentum != 0:
            for p in params:
                state = self.state[p]
                first.append(int(state.get("momentum_buffer") is None))
                if first[-1]:
                    dtype = torch.float64 if p.dtype == torch.float64 else torch.float32
                    state["momentum_buffer"] = torch.zeros(self._indices[p].numel(), dtype=dtype, device=p.device)
                buffers.append(state["momentum_buffer"])
        else:
            first = [1] * len(params)
        ops.sparse_sgd_(
            [p.detach() for p in params],
            [p.grad for p in params if p.grad is not None],
            [self._indices[p] for p in params],
            buffers,
            first,
            float(group["lr"]),
            momentum,
            float(group["dampening"]),
            float(group["weight_decay"]),
            bool(group["nesterov"]),
            bool(group["maximize"]),
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what ``state_dict`` gave; momentum keeps its own precision, whatever the parameters' dtype."""
        buffers: dict[Tensor, Tensor] = {}
        ordered = [p for group in self.param_groups for p in group["params"]]
        for position, p in enumerate(ordered):
            buffer = state_dict["state"].get(position, {}).get("momentum_buffer")
            if buffer is None:
                continue
            if p not in self._indices or buffer.shape != self._indices[p].shape:
                raise ValueError(
                    f"momentum_buffer of parameter {position} has shape {tuple(buffer.shape)}: "
                    "the state was saved for another selection"
                )
            buffers[p] = buffer.to(device=p.device, copy=True)
        super().load_state_dict(state_dict)
        for p, buffer in buffers.items():
            self.state[p]["momentum_buffer"] = buffer


def _indices_by_parameter(optimizer: torch.optim.Optimizer, selection: Selection) -> dict[Tensor, Tensor]:
    params = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    check_tensors({str(t): p for t, p in enumerate(params)}, "parameter")
    if len(params) != len(selection.shapes):
        raise ValueError(
            f"the selection was made for {len(selection.shapes)} tensors, the optimizer has {len(params)} parameters"
        )
    for position, (p, shape) in enumerate(zip(params, selection.shapes, strict=True)):
        if tuple(p.shape) != shape:
            raise ValueError(
                f"parameter {position} of the optimizer has shape {tuple(p.shape)}, and {shape} in the selection"
            )
    return dict(zip(params, selection.indices, strict=True))
