"""Random coordinates of sharded tensors: those that one process would draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.distributed.layout import Layout
from fgunlearn.distributed.processes import Processes
from fgunlearn.distributed.ranking import offsets_of
from fgunlearn.ops.philox import philox_word_ref
from fgunlearn.ops.select import index_dtype
from fgunlearn.seeding import derived_seed
from fgunlearn.selection.ascending import merged
from fgunlearn.selection.passes import k_largest, place_histogram
from fgunlearn.selection.strategies import apportion

_DIGIT_BITS = 11


def random_over(
    layouts: Sequence[Layout],
    k: int,
    seed: int,
    each: bool,
    processes: Processes,
    base: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """k random coordinates outside ``base``, united with it, as one process draws them from whole tensors.

    Every process draws the whole subset, in memory for k indices, and keeps its part; without a base nothing is sent.

    Args:
        layouts: where this process's parts lie.
        k: how many, of all processes.
        seed: any 64-bit integer.
        each: the same share of each tensor (exactly k in all), not k of all.
        processes: that hold the parts.
        base: per tensor ascending flat indices into this process's part.

    Returns:
        Per tensor ascending flat indices into this process's part.
    """
    if not each:
        return _drawn(layouts, k, seed, processes, base)
    counts = torch.zeros(len(layouts), dtype=torch.int64)
    if base is not None:
        for t, (layout, index) in enumerate(zip(layouts, base, strict=True)):
            counts[t] = len(index) if layout.first else 0
        counts = processes.sum(counts)
    free = [layout.numel - count for layout, count in zip(layouts, counts.tolist(), strict=True)]
    indices = []
    for t, share in enumerate(apportion(k, free)):
        own = None if base is None else base[t : t + 1]
        indices += _drawn(layouts[t : t + 1], share, derived_seed(seed, t), processes, own)
    return indices


def _drawn(
    layouts: Sequence[Layout], k: int, seed: int, processes: Processes, base: Sequence[Tensor] | None
) -> list[Tensor]:
    numels = [layout.numel for layout in layouts]
    if base is not None and k == 0:
        return list(base)
    if base is None:
        return [
            _local(layout, index) for layout, index in zip(layouts, _whole(numels, k, seed, processes), strict=True)
        ]
    held = sum(len(index) for index, layout in zip(base, layouts, strict=True) if layout.first)
    taken = int(processes.sum(torch.tensor([held])))
    # Among the k + taken with the largest keys there are k outside the base, and so the k largest that are.
    outside = []
    for layout, index, own in zip(layouts, _whole(numels, k + taken, seed, processes), base, strict=True):
        drawn = _local(layout, index)
        outside.append(drawn[torch.isin(drawn, own, assume_unique=True, invert=True)])
    keys = _Keys(outside, layouts, seed)
    k_largest(keys, k, sum(numels), room=0, digit_bits=_DIGIT_BITS, total=processes.sum)
    chosen = keys.everywhere()
    return [merged(own, drawn) for own, drawn in zip(base, chosen, strict=True)]


def _whole(numels: Sequence[int], k: int, seed: int, processes: Processes) -> list[Tensor]:
    return ops.randomk_select(numels, k, seed, device=processes.device)


def _local(layout: Layout, index: Tensor) -> Tensor:
    _, local = layout.to_local(index)
    return local.to(index_dtype(layout.local_numel))


class _Keys:
    """Passes over the keys by which Random-k ranks some coordinates; see ``ops.randomk_select_ref``."""

    def __init__(self, indices: Sequence[Tensor], layouts: Sequence[Layout], seed: int) -> None:
        self.wide = True
        self._indices = list(indices)
        self._layouts = list(layouts)
        self._offsets = offsets_of(layouts)
        self._places_of = [self.places(t, index) for t, index in enumerate(indices)]
        self._keys_of = [
            ((philox_word_ref(seed, 0, place) & 0x7FFFFFFF) << 32) | philox_word_ref(seed, 1, place)
            for place in self._places_of
        ]
        empty = torch.zeros(0, dtype=torch.int64)
        counted = [t for t, layout in enumerate(layouts) if layout.first]
        self._keys = torch.cat([empty, *(self._keys_of[t].cpu() for t in counted)])
        self._places = torch.cat([empty, *(self._places_of[t].cpu() for t in counted)])
        self._last: tuple[int, int] = (0, -1)

    def histogram(self, low: int, shift: int, bins: int) -> Tensor:
        slots = ((self._keys[self._keys >= low] - low) >> shift).clamp_(max=bins)
        return torch.bincount(slots, minlength=bins + 2)

    def refusal(self, count: int) -> Exception:
        raise AssertionError("random keys are numbers")

    def collect(self, low: int, high: int) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        raise AssertionError("asked for with room = 0")

    def places(self, tensor: int, index: Tensor) -> Tensor:
        return self._layouts[tensor].to_global(index) + self._offsets[tensor]

    def ties(self, key: int, low: int, shift: int, bins: int) -> Tensor:
        return place_histogram(self._places[self._keys == key], low, shift, bins)

    def emit(self, key: int, last_place: int) -> list[Tensor]:
        self._last = (key, last_place)
        return self._emitted(counted=True)

    def everywhere(self) -> list[Tensor]:
        """What was emitted last, of all parts that this process holds."""
        return self._emitted(counted=False)

    def _emitted(self, counted: bool) -> list[Tensor]:
        key, last_place = self._last
        chosen = []
        for index, layout, keys, places in zip(
            self._indices, self._layouts, self._keys_of, self._places_of, strict=True
        ):
            taken = (keys > key) | ((keys == key) & (places <= last_place))
            chosen.append(index[taken] if layout.first or not counted else index[:0])
        return chosen
