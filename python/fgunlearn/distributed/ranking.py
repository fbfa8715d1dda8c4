"""The exact k largest of keys whose parts lie on several processes; no key leaves its process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.distributed.layout import Layout
from fgunlearn.distributed.processes import Processes
from fgunlearn.ops.bracket import keys_ref
from fgunlearn.selection.ascending import counts_between, merged
from fgunlearn.selection.passes import Ranked, key_value, place_edges, ranked

_DIGIT_BITS = 11
_SENT = 2**19  # bytes that the histograms of all tensors may take, where each tensor is ranked by itself
_ROOM, _ROOM_SHARE = 2**20, 16  # so many keys, or a 16th of all, are collected instead of counted again


class Parts:
    """Passes (see :class:`fgunlearn.selection.passes.Passes`) over this process's parts of a list of tensors.

    Of several processes that hold the same part the first counts it; to the passes of the others it is empty.

    Args:
        parts: this process's parts.
        layouts: where they lie.
        processes: that hold the others.
        labels: the tensors' names in errors.
    """

    def __init__(
        self, parts: Sequence[Tensor], layouts: Sequence[Layout], processes: Processes, labels: Sequence[str]
    ) -> None:
        self._parts = list(parts)
        self._counted = [
            part if layout.first else part.new_empty(0) for part, layout in zip(parts, layouts, strict=True)
        ]
        self._layouts = list(layouts)
        self._offsets = offsets_of(layouts)
        self._processes = processes
        self._labels = labels
        self.wide = any(part.dtype == torch.float64 for part in parts)

    def histogram(self, low: int, shift: int, bins: int) -> Tensor:
        """Counts of the keys' leading bits."""
        return ops.bracket_histogram(self._counted, low, shift, bins, self.wide)

    def refusal(self, count: int) -> Exception:
        """An error that names the first tensor with a NaN, on any process."""
        counts = self._processes.sum(torch.tensor([int(part.isnan().sum()) for part in self._counted]))
        t = int(counts.nonzero()[0, 0])
        return ValueError(f"{self._labels[t]} holds {int(counts[t])} NaN: there is no order to select by")

    def collect(self, low: int, high: int) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """The coordinates above a bracket, and those in it with their keys."""
        above, between = ops.bracket_split(self._counted, low, high, self.wide)
        return above, list(zip(between, self._keys(between), strict=True))

    def places(self, tensor: int, index: Tensor) -> Tensor:
        """Flat indices into the concatenation of all whole tensors."""
        return self._layouts[tensor].to_global(index) + self._offsets[tensor]

    def ties(self, key: int, low: int, shift: int, bins: int) -> Tensor:
        """Counts of the leading bits of the places of one key."""
        device = self._processes.device
        counts, edges = torch.zeros(bins + 1, dtype=torch.int64, device=device), place_edges(low, shift, bins, device)
        _, equal = ops.bracket_split(self._counted, key, key + 1, self.wide)
        for index, layout, offset in zip(equal, self._layouts, self._offsets, strict=True):
            counts += counts_between(index, layout.locals_before(edges - offset))
        return counts

    def emit(self, key: int, last_place: int) -> list[Tensor]:
        """What is selected, of the parts that this process counts."""
        return self._emitted(self._counted, key, last_place, range(len(self._counted)))

    def everywhere(self, found: Ranked) -> list[Tensor]:
        """What is selected of all parts that this process holds, also of those that another one counts."""
        uncounted = [t for t, layout in enumerate(self._layouts) if not layout.first]
        indices = list(found.indices)
        if not uncounted:
            return indices
        emitted = self._emitted([self._parts[t] for t in uncounted], found.key, found.last_place, uncounted)
        for t, index in zip(uncounted, emitted, strict=True):
            indices[t] = index
        return indices

    def _keys(self, indices: Sequence[Tensor]) -> list[Tensor]:
        return [keys_ref(value, self.wide) for value in ops.sparse_gather(self._counted, indices)]

    def _emitted(self, parts: Sequence[Tensor], key: int, last_place: int, numbers: Sequence[int]) -> list[Tensor]:
        """Of parts of the tensors of these numbers."""
        above, equal = ops.bracket_split(parts, key, key + 1, self.wide)
        taken = []
        for index, t in zip(equal, numbers, strict=True):
            end = self._layouts[t].local_before(last_place + 1 - self._offsets[t])
            taken.append(index[: int(torch.searchsorted(index, end))] if len(index) else index)
        return [merged(one, other) for one, other in zip(above, taken, strict=True)]


def offsets_of(layouts: Sequence[Layout]) -> list[int]:
    """The global index of each whole tensor's first element."""
    return [sum(layout.numel for layout in layouts[:t]) for t in range(len(layouts))]


def top_over(
    parts: Sequence[Tensor],
    layouts: Sequence[Layout],
    processes: Processes,
    k: Sequence[int],
    each: bool,
    labels: Sequence[str],
) -> tuple[list[Tensor], float | None]:
    """The k largest \\|values\\| over all processes, as :func:`fgunlearn.ops.topk_select` finds them in whole tensors.

    Sends histograms of counts: below 200 KB in all for one ranking of any size. A ranking of each tensor by itself
    sends below 1 MiB with up to 700 tensors (450 if one of them is float64), and with more of them at most 1.5 KB for
    each (2.3 KB), if they have less than 2**32 elements.

    Args:
        parts: this process's parts, on one device; of the same dtypes on all processes.
        layouts: where they lie.
        processes: all of which call this.
        k: how many of all; or with ``each`` one number per tensor.
        each: select from each tensor by itself.
        labels: the tensors' names in errors.

    Returns:
        Per tensor the ascending flat indices into this process's part; and the threshold, None with ``each``.

    Raises:
        ValueError: a NaN; tensor and count are named, on all processes.
    """
    if not each:
        every = Parts(parts, layouts, processes, labels)
        return top_of(every, k[0], sum(layout.numel for layout in layouts), processes, _DIGIT_BITS)
    numels = [layout.numel for layout in layouts]
    bits = digit_bits_of(numels, any(part.dtype == torch.float64 for part in parts))
    indices = []
    for part, layout, count, label in zip(parts, layouts, k, labels, strict=True):
        found, _ = top_of(Parts([part], [layout], processes, [label]), count, layout.numel, processes, bits)
        indices += found
    return indices, None


def top_of(parts: Parts, k: int, n: int, processes: Processes, bits: int) -> tuple[list[Tensor], float]:
    """The k largest of n keys that these are this process's parts of, by digits of so many bits; and the threshold."""
    room = max(_ROOM, n // _ROOM_SHARE)
    found = ranked(parts, k, n, room=room, digit_bits=bits, total=processes.sum)
    return parts.everywhere(found), key_value(found.key, parts.wide)


def digit_bits_of(numels: Sequence[int], wide: bool) -> int:
    """The widest digits with which the histograms of tensors of these sizes stay below ``_SENT`` bytes for any keys.

    Or else 2, with which they are the smallest: with one bit, two of a histogram's four counts are the additional ones.
    """
    key_bits = 63 if wide else 31
    for bits in range(_DIGIT_BITS, 2, -1):
        # Of keys and, where the k-th largest is that of many, of places: see fgunlearn.selection.passes.
        keys = len(numels) * -(-key_bits // bits) * (2**bits + 2)
        places = sum(-(-max(numel - 1, 0).bit_length() // bits) for numel in numels) * (2**bits + 1)
        if 8 * (keys + places) <= _SENT:
            return bits
    return 2
