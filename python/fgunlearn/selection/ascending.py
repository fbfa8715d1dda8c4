"""Ascending indices."""

from __future__ import annotations

import torch
from torch import Tensor


def merged(one: Tensor, other: Tensor) -> Tensor:
    """Two ascending tensors without a common value as one, without a sort."""
    if not len(one) or not len(other):
        return one if len(one) else other
    both = torch.empty(len(one) + len(other), dtype=one.dtype, device=one.device)
    places = torch.searchsorted(one, other) + torch.arange(len(other), device=one.device)
    is_one = torch.ones(len(both), dtype=torch.bool, device=one.device)
    is_one[places] = False
    both[places] = other
    both[is_one] = one
    return both
