"""The state of a torch optimizer in a checkpoint; hyper-parameters are the call's own."""

from __future__ import annotations

from typing import Any

import torch

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
    state: dict[int, dict[str, Any]] = {}
    for number, key in saved.facts["entries"]:
        state.setdefault(number, {})[key] = saved.tensors.get(f"{number}/{key}")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
