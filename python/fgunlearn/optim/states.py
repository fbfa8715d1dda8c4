"""Optimizer state from elsewhere: of the selected coordinates, or a dense optimizer's, which is gathered."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.distributed.layout import is_dtensor, layout_of, local_part
from fgunlearn.optim.checks import check_count
from fgunlearn.optim.matching import Slot
from fgunlearn.optim.rules import RULES, Rule


def selected_state(
    entry: Mapping[str, Any], slot: Slot, rule: Rule, device_of_step: torch.device, label: str
) -> dict[str, Any]:
    """A copy of one parameter's state with k values each, in the dtype and on the device that the step wants them.

    Raises:
        ValueError: a state of neither k values nor the parameter's shape, one that is missing, no tensor of real
            numbers, or another rule's.
    """
    foreign = [key for key in entry if key not in rule.states and key != "step"]
    if foreign:
        raise ValueError(f"the state of parameter {label} has {foreign[0]!r}: it is another optimizer's")
    made: dict[str, Any] = {}
    for key in rule.states:
        value = entry.get(key)
        if value is None:
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = str(value.dtype)[6:] if isinstance(value, Tensor) else repr(value)
            raise ValueError(f"{key} of parameter {label} must be a floating-point tensor, got {got}")
        index = slot.index
        if slot.layout is not None and not is_dtensor(value):
            index = slot.layout.to_global(index)
        elif slot.layout is not None and layout_of(value, f"{key} of parameter {label}") != slot.layout:
            raise ValueError(f"{key} of parameter {label} is sharded in another way than the parameter")
        dense = value.layout == torch.strided and tuple(value.shape) == slot.shape
        value = local_part(value).to(slot.device)
        if dense:
            value = ops.sparse_gather([value], [index])[0]
        elif value.layout != torch.strided or tuple(value.shape) != (slot.k,):
            raise ValueError(
                f"{key} of parameter {label} has shape {tuple(value.shape)}, neither the {slot.k} values of this "
                f"selection nor the parameter's {slot.shape}: the state was saved for another selection or model"
            )
        made[key] = value.to(slot.state_dtype, copy=True)
    if "step" in entry:
        made["step"] = _count(entry["step"], f"step of parameter {label}").to(device_of_step)
    missing = [key for key in rule.required if key not in made]
    if made and missing:
        raise ValueError(f"the state of parameter {label} has no {missing[0]}: it is another optimizer's")
    return made


def _count(value: object, label: str) -> Tensor:
    if not isinstance(value, (Tensor, int, float)) or isinstance(value, bool):  # old torch saved plain numbers
        raise ValueError(f"{label} must be a tensor of one number, got {value!r}")
    count = torch.as_tensor(value).detach().cpu()
    check_count(count, label)
    return count.reshape(()).to(torch.float32, copy=True)


def check_saved_groups(saved: Sequence[Mapping[str, Any]], rule: Rule) -> None:
    """Refuses the hyper-parameters of another kind of optimizer.

    Raises:
        ValueError: a group lacks one of the rule's, or has another rule's.
    """
    others = {name for other in RULES.values() for name in other.numbers} - set(rule.numbers)
    for position, group in enumerate(saved):
        missing = [name for name in rule.signature if name not in group]
        foreign = [name for name in group if name in others]
        if missing or foreign:
            what = f"no {missing[0]!r}" if missing else f"{foreign[0]!r}"
            raise ValueError(f"the saved param group {position} has {what}: it is another optimizer's")


def step_device(group: Mapping[str, Any], p: Tensor) -> torch.device:
    """Where torch keeps the step count: beside the parameter where a kernel reads it, else on the CPU."""
    return p.device if group.get("capturable") or group.get("fused") else torch.device("cpu")


def matched_groups(
    groups: Sequence[dict[str, Any]], saved: Sequence[Mapping[str, Any]]
) -> list[tuple[Any, Tensor, dict[str, Any]]]:
    """Per parameter the number it has in the saved state, the parameter, and its group.

    Raises:
        ValueError: other groups than these, in torch's words.
    """
    if len(groups) != len(saved):
        raise ValueError("loaded state dict has a different number of parameter groups")
    if any(len(group["params"]) != len(other["params"]) for group, other in zip(groups, saved, strict=True)):
        raise ValueError(
            "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
        )
    return list(
        itertools.chain.from_iterable(
            ((number, p, group) for number, p in zip(other["params"], group["params"], strict=True))
            for group, other in zip(groups, saved, strict=True)
        )
    )


def update_groups(groups: Sequence[dict[str, Any]], saved: Sequence[Mapping[str, Any]], rule: Rule) -> None:
    """Takes the saved hyper-parameters over, in the groups' own dicts: whoever holds one sees them."""
    for group, other in zip(groups, saved, strict=True):
        group.update({key: copy.deepcopy(value) for key, value in other.items() if key != "params"})
        if rule.decoupled:
            group["decoupled_weight_decay"] = True
