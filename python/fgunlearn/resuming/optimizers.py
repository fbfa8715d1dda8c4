"""The state of a torch optimizer in a checkpoint; hyper-parameters are the call's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fgunlearn.resuming.file import Contents


def of_optimizer(optimizer: torch.optim.Optimizer) -> Contents:
    """Its state, of which every entry is a tensor or None."""
    found = Contents({}, {"entries": []})
    for number, entry in optimizer.state_dict()["state"].items():
        for key, value in entry.items():
            found.facts["entries"].append([number, key])
            if value is not None:
                found.tensors[f"{number}/{key}"] = value
    return found


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Contents) -> None:
    """Gives a new optimizer of the same parameters that state."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for number, key in saved.facts["entries"]:
        value = saved.tensors.get(f"{number}/{key}")
        state.setdefault(number, {})[key] = None if value is None else _laid_as(value, parameters[number])
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _laid_as(value: Tensor, parameter: Tensor) -> Tensor:
    """A state in memory as its parameter lies there: fused steps go through both without looking at strides."""
    if value.shape != parameter.shape or value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
