"""Selecting whole channels: rank or draw them, take them until k coordinates are reached."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal

import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.ops.philox import philox_word_ref
from fgunlearn.ops.select import index_dtype
from fgunlearn.seeding import derived_seed
from fgunlearn.selection.ascending import merged
from fgunlearn.selection.channels import Cells, Channels

Pool = Literal["sum", "mean"]

# Coordinates per step of a sum: its float64 copy stays in the cache. A GPU wants few launches instead.
_STEP, _STEP_CUDA = 2**17, 2**26
# torch adds up a single row of this many elements in as many parts as it has threads.
_LONG, _PART = 2**15, 2**14


def choose_channels(
    channels: Channels,
    k: int,
    device: torch.device,
    *,
    ranked: int = 0,
    keys: Sequence[Tensor] = (),
    pool: Pool = "sum",
    seed: int = 0,
    labels: Sequence[str] = (),
) -> list[Tensor]:
    """k coordinates as whole channels, one after another, the last one in part where k ends inside it.

    First come the channels by descending score, as many as ``ranked`` coordinates reach into; then the others in an
    order that is a function of (seed, smallest global index). Of a ranked last channel the coordinates with the
    largest \\|key\\| are taken (ties: smallest global index), of a drawn one a uniform subset.

    Args:
        channels: the partition.
        k: how many coordinates.
        device: where the indices are made.
        ranked: how many of k are taken by score, at most k.
        keys: the scores, one tensor per tensor of the partition; not read if ``ranked`` is 0.
        pool: a channel's score is the "sum" of its coordinates' \\|key\\|, in float64, or their "mean".
        seed: of the order of the channels that are not ranked.
        labels: the keys' names in errors.

    Returns:
        Per tensor ascending flat indices, as :func:`fgunlearn.ops.topk_select` gives them.

    Raises:
        ValueError: a NaN among the keys.
    """
    channels = channels.to(device)
    order = channels.first.new_empty(0)
    if ranked > 0:
        order = _by_score(keys, channels, pool, labels)
        order = order[: int((channels.sizes[order].cumsum(0) < ranked).sum()) + 1]
    by_score = len(order)
    if int(channels.sizes[order].sum()) < k:
        drawn = _by_seed(channels, seed)
        left = torch.ones(len(drawn), dtype=torch.bool, device=device)
        left[order] = False
        order = torch.cat([order, drawn[left[drawn]]])
    ends = channels.sizes[order].cumsum(0)
    whole = int((ends <= k).sum())
    indices = _coordinates(channels, order[:whole])
    rest = k - (int(ends[whole - 1]) if whole else 0)
    if rest > 0:
        border = _coordinates(channels, order[whole : whole + 1])
        if whole < by_score:
            values = [key.reshape(-1)[index.long()] for key, index in zip(keys, border, strict=True)]
            taken, _ = ops.topk_select(values, rest)
        else:
            own = derived_seed(seed, int(channels.first[order[whole]]))
            taken = ops.randomk_select([index.numel() for index in border], rest, own, device=device)
        for t, (index, at) in enumerate(zip(border, taken, strict=True)):
            if at.numel():
                indices[t] = merged(indices[t], index[at.long()])
    return indices


def _by_score(keys: Sequence[Tensor], channels: Channels, pool: Pool, labels: Sequence[str]) -> Tensor:
    """All channels by descending score, ties by the smallest global index."""
    totals = torch.zeros(len(channels.sizes), dtype=torch.float64, device=channels.sizes.device)
    for key, cells in zip(keys, channels.cells, strict=True):
        blocks, turns, width, run = cells.view
        if prod(cells.view) == 0:
            continue
        sums = _sums_of_rows(key.detach().reshape(-1, run))
        if turns > 1:
            sums = _sums_of_rows(sums.reshape(blocks, turns, width).transpose(1, 2).reshape(-1, turns))
        totals[cells.ids] += sums  # no channel twice in one tensor: no two threads add to one
    if bool(totals.isnan().any()):
        for key, label in zip(keys, labels, strict=True):
            if count := int(key.isnan().sum()):
                raise ValueError(f"{label} holds {count} NaN: there is no order to select by")
    if pool == "mean":
        totals /= channels.sizes
    return totals.sort(descending=True, stable=True).indices


def _sums_of_rows(matrix: Tensor) -> Tensor:
    """float64 sums of the rows' magnitudes: one read, the same bits on any number of threads."""
    rows, length = matrix.shape
    if length >= _LONG and not matrix.is_cuda:
        body = length - length % _PART
        return torch.cat([_sums_of_parts(row[:body].view(-1, _PART), row[body:]) for row in matrix])
    step = min(rows, max(1, (_STEP_CUDA if matrix.is_cuda else _STEP) // max(length, 1)))
    # One buffer for all steps: new memory for each would cost more than the sums.
    copy = torch.empty(step, length, dtype=torch.float64, device=matrix.device)
    sums = torch.empty(rows, dtype=torch.float64, device=matrix.device)
    for at in range(0, rows, step):
        part = matrix[at : at + step]
        torch.sum(copy[: len(part)].copy_(part).abs_(), 1, out=sums[at : at + step])
    return sums


def _sums_of_parts(body: Tensor, tail: Tensor) -> Tensor:
    parts = [_sums_of_rows(body), _sums_of_rows(tail.view(1, -1))]
    return _sums_of_rows(torch.cat(parts).view(1, -1))


def _by_seed(channels: Channels, seed: int) -> Tensor:
    """All channels in a random order: by the keys that Random-k has for their first coordinates."""
    high, low = (philox_word_ref(seed, stream, channels.first) for stream in (0, 1))
    return (((high & 0x7FFFFFFF) << 32) | low).sort(descending=True, stable=True).indices


def _coordinates(channels: Channels, chosen: Tensor) -> list[Tensor]:
    """Per tensor the ascending flat indices of the chosen channels' coordinates."""
    is_chosen = torch.zeros(len(channels.sizes), dtype=torch.bool, device=chosen.device)
    is_chosen[chosen] = True
    return [_of_cells(cells, is_chosen[cells.ids]) for cells in channels.cells]


def _of_cells(cells: Cells, is_chosen: Tensor) -> Tensor:
    blocks, turns, width, run = cells.view
    dtype = index_dtype(prod(cells.view))
    # Runs are looked through, not coordinates: the rest of the work is that of the answer's size.
    runs = is_chosen.view(blocks, 1, width).expand(blocks, turns, width).reshape(-1).nonzero().to(dtype)
    return (runs * run + torch.arange(run, dtype=dtype, device=runs.device)).reshape(-1)
