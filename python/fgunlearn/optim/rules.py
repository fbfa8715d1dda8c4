"""What each supported torch optimizer does in a step, by way of its sparse op, and which state it keeps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.optim.checks import check_state, checked_options
from fgunlearn.optim.matching import Slot


@dataclass(frozen=True)
class Scaling:
    """What ``torch.amp.GradScaler`` tells a step: the gradients' scale, and whether one was infinite or NaN."""

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None


@dataclass
class GroupStep:
    """One launch: the parameters of one group that have a gradient, all dense or all of selected values alone.

    ``options`` are the group's hyper-parameters, checked; ``owners`` the parameters themselves, ``params`` the same
    detached (of DTensors, this process's parts).
    """

    group: dict[str, Any]
    options: dict[str, float]
    gathered: bool
    scaling: Scaling
    rounding_seed: int | None
    owners: list[Tensor] = field(default_factory=list)
    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)

    def rate_on_device(self) -> Tensor | None:
        """The learning rate where it lies on a device that must not be waited for."""
        lr = self.group["lr"]
        return lr if isinstance(lr, Tensor) and lr.device.type != "cpu" else None

    def inputs(self) -> dict[str, Any]:
        """The op's keyword arguments that are the same for every rule."""
        return {
            "lr_tensor": self.rate_on_device(),
            "grad_scale": self.scaling.grad_scale,
            "found_inf": self.scaling.found_inf,
            "gathered": self.gathered,
            "rounding_seed": self.rounding_seed,
            "offsets": [slot.first_index for slot in self.slots] if self.rounding_seed is not None else [],
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
            if state.get("step") is None:
                dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
                state["step"] = torch.zeros((), dtype=dtype, device=p.device if on_device else "cpu")
            elif found is not None and found.device != state["step"].device:
                state["step"] = state["step"].to(found.device)  # so that nothing has to wait for found_inf
        return [state["step"] for state in self.states]


def _sgd(step: GroupStep) -> None:
    options = step.options
    momentum = options["momentum"]
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
            options["lr"],
            momentum,
            options["dampening"],
            options["weight_decay"],
            bool(options["nesterov"]),
            bool(options["maximize"]),
            step=counts,
            **step.inputs(),
        )


def _adam(step: GroupStep) -> None:
    options = step.options
    amsgrad = bool(options["amsgrad"])
    with step.counted() as counts:
        ops.sparse_adam_(
            step.params,
            step.grads,
            [slot.index for slot in step.slots],
            step.state("exp_avg"),
            step.state("exp_avg_sq"),
            step.state("max_exp_avg_sq") if amsgrad else [],
            counts,
            options["lr"],
            options["beta1"],
            options["beta2"],
            options["eps"],
            options["weight_decay"],
            bool(options["decoupled_weight_decay"]),
            amsgrad,
            bool(options["maximize"]),
            **step.inputs(),
        )


@dataclass(frozen=True)
class Rule:
    """A kind of optimizer: what its groups and state hold, and its step.

    Attributes:
        states: the names of its k-sized states.
        required: those (and the step count) that a state can't do without.
        numbers: its hyper-parameters.
        flags: its switches.
        signature: of both, what every saved group of such an optimizer has.
        decoupled: whether it is its weight decay's nature to be decoupled, whatever a saved group says.
        step: takes a step.
    """

    states: tuple[str, ...]
    required: tuple[str, ...]
    numbers: tuple[str, ...]
    flags: tuple[str, ...]
    signature: tuple[str, ...]
    decoupled: bool
    step: Callable[[GroupStep], None]

    def checked(self, groups: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        """The groups' hyper-parameters; see :func:`checked_options`."""
        return checked_options(groups, self.numbers, self.flags)

    def check_step(self, step: GroupStep) -> None:
        """Refuses a launch that the op would refuse, so that no other has run by then.

        Raises:
            ValueError: a state, or a learning rate on another device.
        """
        lr = step.rate_on_device()
        for p, slot, state in zip(step.params, step.slots, step.states, strict=True):
            check_state(state, p, slot, self.states, self.required)
            if lr is not None and lr.device != p.device:
                raise ValueError(f"lr must be on the CPU or on {p.device}, where parameter {slot.label} is")


def _adam_rule(decoupled: bool) -> Rule:
    return Rule(
        states=("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
        required=("step", "exp_avg", "exp_avg_sq"),
        numbers=("lr", "betas", "eps", "weight_decay"),
        flags=("amsgrad", "decoupled_weight_decay", "maximize"),
        signature=("lr", "betas", "eps", "weight_decay", "amsgrad"),
        decoupled=decoupled,
        step=_adam,
    )


RULES: dict[type[torch.optim.Optimizer], Rule] = {
    torch.optim.SGD: Rule(
        states=("momentum_buffer",),
        required=(),
        numbers=("lr", "momentum", "dampening", "weight_decay"),
        flags=("nesterov", "maximize"),
        signature=("lr", "momentum", "dampening", "weight_decay", "nesterov"),
        decoupled=False,
        step=_sgd,
    ),
    torch.optim.Adam: _adam_rule(decoupled=False),
    torch.optim.AdamW: _adam_rule(decoupled=True),
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
