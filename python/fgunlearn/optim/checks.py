"""What a step refuses before it moves anything: hyper-parameters and state that it can't use."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fgunlearn.optim.matching import Slot

_STEP_DTYPES = (torch.float32, torch.float64)


def checked_options(
    groups: Sequence[Mapping[str, Any]], names: Sequence[str], flags: Sequence[str]
) -> list[dict[str, float]]:
    """Per group the named hyper-parameters as numbers, ``betas`` as beta1 and beta2, and the flags as bools.

    A learning rate on a device is not waited for: it is 0 here.

    Raises:
        ValueError: one that is missing, no number, not finite or out of range; group, key and value are named.
    """
    made = []
    for position, group in enumerate(groups):
        options: dict[str, float] = {}
        for name in (*names, *flags):
            label = f"{name} of param group {position}"
            if name not in group:
                raise ValueError(f"{label} is missing")
            value = group[name]
            if name in flags:
                options[name] = bool(value)
            elif name == "betas":
                options["beta1"], options["beta2"] = _betas(value, label)
            elif name == "lr" and isinstance(value, Tensor) and value.device.type != "cpu":
                if value.dtype not in _STEP_DTYPES or value.numel() != 1:
                    raise ValueError(f"{label} must be one float32 or float64 number, got {_described(value)}")
                options[name] = 0.0
            else:
                options[name] = _number(value, label)
        made.append(options)
    return made


def _number(value: object, label: str) -> float:
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            raise ValueError(f"{label} must be one real number, got {_described(value)}")
        value = value.item()
    if not isinstance(value, numbers.Real):
        raise ValueError(f"{label} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{label} must be finite, got {float(value)}")
    return float(value)


def _betas(value: Any, label: str) -> tuple[float, float]:
    try:
        first, second = value
    except (TypeError, ValueError):
        raise ValueError(f"{label} must be two numbers in [0, 1), got {value!r}") from None
    betas = _number(first, label), _number(second, label)
    if not all(0.0 <= beta < 1.0 for beta in betas):
        raise ValueError(f"{label} must be in [0, 1), got {betas}")
    return betas


def check_state(state: Mapping[str, Any], p: Tensor, slot: Slot, names: Sequence[str], required: Sequence[str]) -> None:
    """Refuses a state that the step of a parameter can't use; one that is yet to be made passes.

    Raises:
        ValueError: a state of other than k values, of another dtype or device, or one that is missing; parameter and
            key are named.
    """
    held = False
    for key in names:
        value = state.get(key)
        if value is None:
            continue
        held = True
        if not _is_vector(value, slot.k, slot.state_dtype, p.device):
            got = _described(value) if isinstance(value, Tensor) else repr(value)
            wanted = f"{slot.k} contiguous {str(slot.state_dtype)[6:]} values on {p.device}"
            raise ValueError(f"{key} of parameter {slot.label} must be {wanted}, got {got}")
    count = state.get("step")
    if count is not None:
        held = True
        _check_step(count, p, slot)
    if held:
        for key in required:
            if state.get(key) is None:
                raise ValueError(f"the state of parameter {slot.label} has no {key}")


def _is_vector(value: object, k: int, dtype: torch.dtype, device: torch.device) -> bool:
    return (
        isinstance(value, Tensor)
        and value.dtype == dtype
        and value.layout == torch.strided
        and value.shape == (k,)
        and value.is_contiguous()
        and value.device == device
    )


def _check_step(count: object, p: Tensor, slot: Slot) -> None:
    label = f"step of parameter {slot.label}"
    if not isinstance(count, Tensor):
        raise ValueError(f"{label} must be a tensor, got {count!r}")
    check_count(count, label, _STEP_DTYPES)
    if not count.is_cpu and count.device != p.device:
        raise ValueError(f"{label} must be on the CPU or on {p.device}, got {count.device}")


def check_count(value: Tensor, label: str, dtypes: Sequence[torch.dtype] | None = None) -> None:
    """Refuses a step count that is not one number >= 0; the value of one on a device is not waited for.

    Raises:
        ValueError: it is not, or of another dtype than these; the label is named.
    """
    if value.numel() != 1 or value.layout != torch.strided or value.is_complex():
        raise ValueError(f"{label} must be one number, got {_described(value)}")
    if dtypes is not None and value.dtype not in dtypes:
        raise ValueError(f"{label} must be {' or '.join(str(d)[6:] for d in dtypes)}, got {str(value.dtype)[6:]}")
    if value.is_cpu and not value.item() >= 0:
        raise ValueError(f"{label} must be >= 0, got {value.item()}")


def _described(value: Tensor) -> str:
    layout = "" if value.layout == torch.strided else f" {value.layout}"
    return f"{str(value.dtype)[6:]}{layout} of shape {tuple(value.shape)} on {value.device}"
