"""Channels as the tests want to see them: lists of coordinates."""

from __future__ import annotations

from math import prod

from fgunlearn.selection.channels import Channels


def members(channels: Channels) -> list[list[int]]:
    """The global indices of every channel."""
    found: list[list[int]] = [[] for _ in channels.sizes]
    offset = 0
    for cells in channels.cells:
        blocks, turns, width, run = cells.view
        owner = cells.ids.view(blocks, 1, width, 1).expand(blocks, turns, width, run).flatten()
        for at, channel in enumerate(owner.tolist()):
            found[channel].append(offset + at)
        offset += prod(cells.view)
    return found
