"""The exact k largest of keys whose parts lie on several processes; no key leaves its process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.distributed.layout import Layout
from fgunlearn.distributed.processes import Processes
from fgunlearn.ops.bracket import keys_ref
from fgunlearn.selection.ascending import merged
from fgunlearn.selection.passes import k_largest, place_histogram

_DIGIT_BITS = 11
_SENT = 2**18  # bytes that the histograms of all tensors may take, where each tensor is ranked by itself
_ROOM, _ROOM_SHARE = 2**20, 16  # so many keys, or a 16th of all, are collected instead of counted again
_PIECE = 2**24  # coordinates with one key whose places are made at once
_NO_KEY = 2**63 - 1  # larger than any


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
        counts = torch.zeros(bins + 1, dtype=torch.int64, device=self._processes.device)
        _, equal = ops.bracket_split(self._counted, key, key + 1, self.wide)
        for t, index in enumerate(equal):
            for piece in index.split(_PIECE):
                counts += place_histogram(self.places(t, piece), low, shift, bins)
        return counts

    def emit(self, key: int, last_place: int) -> list[Tensor]:
        """What is selected, of the parts that this process counts."""
        return self._emitted(self._counted, key, last_place)

    def everywhere(self, indices: list[Tensor]) -> list[Tensor]:
        """What is selected, given that of counted parts: of all parts that this process holds."""
        key = last = _NO_KEY
        for own in self._keys(indices):
            key = min(key, int(own.min()) if len(own) else _NO_KEY)
        uncounted = sum(not layout.first for layout in self._layouts)
        everyones = self._processes.gather(torch.tensor([key, uncounted]))
        if not bool(everyones[:, 1].any()):
            return indices
        key = int(everyones[:, 0].min())
        last = self._last_place(indices, key)
        return self._emitted(self._parts, key, last) if last >= 0 else [index[:0] for index in indices]

    def _last_place(self, indices: Sequence[Tensor], key: int) -> int:
        """The largest place of those selected, on any process, that have this key; -1 if none has."""
        last = -1
        for t, (index, keys) in enumerate(zip(indices, self._keys(indices), strict=True)):
            equal = (keys == key).nonzero().reshape(-1)
            if len(equal):
                last = max(last, int(self.places(t, index[equal[-1:]])))
        return int(self._processes.gather(torch.tensor([last])).max())

    def _keys(self, indices: Sequence[Tensor]) -> list[Tensor]:
        return [keys_ref(value, self.wide) for value in ops.sparse_gather(self._counted, indices)]

    def _emitted(self, parts: Sequence[Tensor], key: int, last_place: int) -> list[Tensor]:
        above, equal = ops.bracket_split(parts, key, key + 1, self.wide)
        taken = []
        for index, layout, offset in zip(equal, self._layouts, self._offsets, strict=True):
            end = layout.local_before(last_place + 1 - offset)
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

    Sends histograms of counts: below 200 KB in all for one ranking of any size, and for a ranking of each tensor by
    itself below 1 MiB with up to about a thousand tensors.

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
        ranked = Parts(parts, layouts, processes, labels)
        return _top(ranked, k[0], sum(layout.numel for layout in layouts), processes, _DIGIT_BITS)
    bits = _digit_bits(len(parts), any(part.dtype == torch.float64 for part in parts))
    indices = []
    for part, layout, count, label in zip(parts, layouts, k, labels, strict=True):
        found, _ = _top(Parts([part], [layout], processes, [label]), count, layout.numel, processes, bits)
        indices += found
    return indices, None


def _top(parts: Parts, k: int, n: int, processes: Processes, bits: int) -> tuple[list[Tensor], float]:
    room = max(_ROOM, n // _ROOM_SHARE)
    indices, threshold = k_largest(parts, k, n, room=room, digit_bits=bits, total=processes.sum)
    return parts.everywhere(indices), threshold


def _digit_bits(tensors: int, wide: bool) -> int:
    """The widest digits with which the histograms of so many tensors stay below ``_SENT`` bytes."""
    bits = _DIGIT_BITS
    while bits > 1 and tensors * -(-(63 if wide else 31) // bits) * 8 * 2**bits > _SENT:
        bits -= 1
    return bits
