"""What each supported torch optimizer does in a step, by way of its sparse op, and which state it keeps."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.optim.matching import Slot


@dataclass(frozen=True)
class Scaling:
    """What ``torch.amp.GradScaler`` tells a step: the gradients' scale, and whether one was infinite or NaN."""

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None


@dataclass
class GroupStep:
    """One launch: the parameters of one group that have a gradient, all dense or all of selected values alone.

    ``owners`` are the parameters themselves, ``params`` the same detached.
    """

    group: dict[str, Any]
    gathered: bool
    scaling: Scaling
    rounding_seed: int | None
    owners: list[Tensor] = field(default_factory=list)
    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)

    def rate(self) -> tuple[float, Tensor | None]:
        """The learning rate, as a number, or as a tensor where it lies on a device that must not be waited for."""
        lr = self.group["lr"]
        return (0.0, lr) if isinstance(lr, Tensor) and lr.device.type != "cpu" else (float(lr), None)

    def inputs(self) -> dict[str, Any]:
        """The op's keyword arguments that are the same for every rule."""
        return {
            "lr_tensor": self.rate()[1],
            "grad_scale": self.scaling.grad_scale,
            "found_inf": self.scaling.found_inf,
            "gathered": self.gathered,
            "rounding_seed": self.rounding_seed,
            "offsets": [slot.offset for slot in self.slots] if self.rounding_seed is not None else [],
        }

    def state(self, key: str) -> list[Tensor]:
        """Per parameter the state of this name, k values; zeros where there was none."""
        for p, slot, state in zip(self.params, self.slots, self.states, strict=True):
            if state.get(key) is None:
                state[key] = torch.zeros(slot.k, dtype=slot.state_dtype, device=p.device)
        return [state[key] for state in self.states]

    @contextlib.contextmanager
    def counted(self) -> Iterator[list[Tensor]]:
        """The step counts, one more than before; back again if the step fails, and where ``found_inf`` says so."""
        counts = self._counts()
        torch._foreach_add_(counts, 1.0)
        try:
            yield counts
        except BaseException:
            torch._foreach_sub_(counts, 1.0)
            raise
        found = self.scaling.found_inf
        if found is not None:
            for count in counts:
                count.sub_(found.to(count.device).clamp(max=1.0).reshape(count.shape))

    def _counts(self) -> list[Tensor]:
        on_device = bool(self.group.get("capturable") or self.group.get("fused"))
        found = self.scaling.found_inf
        for p, state in zip(self.params, self.states, strict=True):
            if "step" not in state:
                dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
                state["step"] = torch.zeros((), dtype=dtype, device=p.device if on_device else "cpu")
            elif found is not None and found.device != state["step"].device:
                state["step"] = state["step"].to(found.device)  # so that nothing has to wait for found_inf
        return [state["step"] for state in self.states]


def _sgd(step: GroupStep) -> None:
    group = step.group
    momentum = float(group["momentum"])
    buffers: list[Tensor] = []
    first = [0] * len(step.params)
    if momentum != 0:
        first = [int(state.get("momentum_buffer") is None) for state in step.states]
        found = step.scaling.found_inf
        if any(first) and found is not None and float(found) != 0:
            return  # a first step that is skipped: the next one is the first
        buffers = step.state("momentum_buffer")
    uncounted: contextlib.AbstractContextManager[list[Tensor]] = contextlib.nullcontext([])
    with uncounted if step.rounding_seed is None else step.counted() as counts:
        ops.sparse_sgd_(
            step.params,
            step.grads,
            [slot.index for slot in step.slots],
            buffers,
            first,
            step.rate()[0],
            momentum,
            float(group["dampening"]),
            float(group["weight_decay"]),
            bool(group["nesterov"]),
            bool(group["maximize"]),
            step=counts,
            **step.inputs(),
        )


def _adam(step: GroupStep) -> None:
    group = step.group
    amsgrad = bool(group["amsgrad"])
    with step.counted() as counts:
        ops.sparse_adam_(
            step.params,
            step.grads,
            [slot.index for slot in step.slots],
            step.state("exp_avg"),
            step.state("exp_avg_sq"),
            step.state("max_exp_avg_sq") if amsgrad else [],
            counts,
            step.rate()[0],
            float(group["betas"][0]),
            float(group["betas"][1]),
            float(group["eps"]),
            float(group["weight_decay"]),
            bool(group["decoupled_weight_decay"]),
            amsgrad,
            bool(group["maximize"]),
            **step.inputs(),
        )


@dataclass(frozen=True)
class Rule:
    """A kind of optimizer: the names of its k-sized states, those it can't do without, and its step."""

    states: tuple[str, ...]
    required: tuple[str, ...]
    step: Callable[[GroupStep], None]


_ADAM = Rule(("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), ("step", "exp_avg", "exp_avg_sq"), _adam)

RULES: dict[type[torch.optim.Optimizer], Rule] = {
    torch.optim.SGD: Rule(("momentum_buffer",), (), _sgd),
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
}


def rule_of(optimizer: torch.optim.Optimizer) -> Rule:
    """The optimizer's rule.

    Raises:
        TypeError: another type than the supported ones, which are listed.
        ValueError: an option that no sparse step can follow.
    """
    rule = RULES.get(type(optimizer))
    if rule is None:
        supported = ", ".join(f"torch.optim.{kind.__name__}" for kind in RULES)
        raise TypeError(f"optimizer must be one of {supported}, got {type(optimizer).__name__}")
    if any(group.get("differentiable") for group in optimizer.param_groups):
        raise ValueError("optimizer has differentiable=True, but a step of SparseOptimizer can't be differentiated")
    return rule


def check_groups(groups: Sequence[dict[str, Any]]) -> None:
    """Refuses hyper-parameters that a step can't use, before anything has moved.

    Raises:
        ValueError: one that is not finite, named.
    """
    for position, group in enumerate(groups):
        for name in ("lr", "momentum", "dampening", "weight_decay", "eps"):
            value = group.get(name)
            if value is None or (isinstance(value, Tensor) and value.device.type != "cpu"):
                continue
            if not math.isfinite(value):
                raise ValueError(f"{name} of param group {position} must be finite, got {float(value)}")
