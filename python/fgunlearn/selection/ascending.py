"""Ascending indices."""

from __future__ import annotations

import torch
from torch import Tensor


def counts_between(index: Tensor, edges: Tensor) -> Tensor:
    """How many values lie between neighbouring edges, and last how many below the first.

    Args:
        index: ascending, >= 0, 1-D.
        edges: ascending, int64 of shape (e,); any values, on the same device.

    Returns:
        int64 of shape (e,): element b < e - 1 counts ``edges[b] <= value < edges[b + 1]``.
    """
    top = torch.iinfo(index.dtype).max  # which is no index
    at = torch.searchsorted(index, edges.clamp(0, top).to(index.dtype))
    return torch.cat([at.diff(), at[:1]])


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
