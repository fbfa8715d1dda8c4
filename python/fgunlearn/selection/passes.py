"""The exact k largest of keys that are never all at hand, found from counts.

A pass goes over all keys once and leaves counts, or the few coordinates it was asked for; the keys themselves may be
made and thrown away again as it goes (gradients), or lie on many processes. Counts of parts add up to those of the
whole, so that a few passes find what a sort of everything would:

1. a histogram of the keys' leading bits; the bin in which the k-th largest falls is the next bracket;
2. as soon as a bracket holds at most ``room`` keys, those are collected, with the coordinates above them, and the rest
   is done with what was collected; else step 1 again, on the next bits of the keys in the bracket;
3. a bracket of a single key with more coordinates than that is a plateau: histograms of their *places* (global
   indices) find the last one that is taken, because ties go to the smallest, and one more pass emits the answer.

With digits of 16 bits, that is two passes where the keys are spread (float32 has 31 bits of magnitude) and five for a
plateau of fewer than 2**32 coordinates. Every decision is a function of summed counts alone: processes that add up
their counts all take the same one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fgunlearn.ops.bracket import INFINITY_KEY
from fgunlearn.selection.ascending import merged

Total = Callable[[Tensor], Tensor]


class KeysChanged(RuntimeError):
    """The keys of one pass are not those of the pass before: the k-th largest is not where it was counted."""

    def __init__(self) -> None:
        super().__init__("the keys changed from one pass to the next: the k-th largest is not where it was counted")


class Passes(Protocol):
    """Keys of a list of tensors, gone over as often as asked; keys and their order as in :mod:`fgunlearn.ops.bracket`.

    Where the keys lie on several processes, each one has its part, and these methods are about that part.
    """

    @property
    def wide(self) -> bool:
        """Whether the keys have 63 bits; else 31. The same on all processes."""

    def histogram(self, low: int, shift: int, bins: int) -> Tensor:
        """What :func:`fgunlearn.ops.bracket_histogram` says of all keys; the last element counts those refused."""

    def refusal(self, count: int) -> Exception:
        """What to raise after a histogram that had ``count`` keys, of all processes, in its last element."""

    def collect(self, low: int, high: int) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Per tensor the indices of the keys >= high, and those in [low, high) with their keys (int64); ascending."""

    def places(self, tensor: int, index: Tensor) -> Tensor:
        """Global places (int64) of a tensor's indices: no two coordinates share one, and the smaller wins a tie."""

    def ties(self, key: int, low: int, shift: int, bins: int) -> Tensor:
        """:func:`place_histogram` of the places of all coordinates with this key."""

    def emit(self, key: int, last_place: int) -> list[Tensor]:
        """Per tensor the ascending indices of larger keys, and of equal ones whose place is at most ``last_place``."""


def place_histogram(places: Tensor, low: int, shift: int, bins: int) -> Tensor:
    """Counts of places, int64 of shape (bins + 1,).

    Element b < bins counts those with ``low + (b << shift) <= place < low + (b + 1 << shift)``, the last one those
    below ``low``. Places beyond are not counted.
    """
    slots = (places - low) >> shift
    slots = torch.where(slots < 0, bins, slots)[slots < bins]
    return torch.bincount(slots, minlength=bins + 1)


def place_edges(low: int, shift: int, bins: int, device: torch.device) -> Tensor:
    """The bins + 1 places between which :func:`place_histogram` counts: where places ascend, that is a search."""
    return (torch.arange(bins + 1, device=device) << shift) + low


@dataclass(frozen=True)
class Ranked:
    """What is selected: larger keys than ``key``, and of equal ones those whose place is at most ``last_place``.

    Attributes:
        indices: per tensor of this process, ascending.
        key: the smallest selected key; infinity's, with a place below all others, where nothing is selected.
        last_place: of the last selected coordinate with that key, or any before the next one with it.
    """

    indices: list[Tensor]
    key: int
    last_place: int


@dataclass(frozen=True)
class _Bracket:
    """Keys in [low, low + 2**bits): ``held`` of them, and the k-th largest of all is the ``rank``-th largest here."""

    low: int
    bits: int
    held: int
    rank: int


def k_largest(
    passes: Passes,
    k: int,
    places: int,
    *,
    room: int,
    digit_bits: int = 16,
    total: Total = lambda counts: counts,
) -> tuple[list[Tensor], float]:
    """The k largest keys: exactly those that :func:`fgunlearn.ops.topk_select` selects of the same keys.

    Args and errors: see :func:`ranked`.

    Returns:
        Per tensor of this process the selected indices, ascending; and the threshold, the smallest selected magnitude
        (infinity for k = 0).
    """
    found = ranked(passes, k, places, room=room, digit_bits=digit_bits, total=total)
    return found.indices, key_value(found.key, passes.wide)


def ranked(
    passes: Passes,
    k: int,
    places: int,
    *,
    room: int,
    digit_bits: int = 16,
    total: Total = lambda counts: counts,
) -> Ranked:
    """The k largest keys, and what tells them from the others.

    Args:
        passes: the keys, or this process's part of them.
        k: how many, of all processes together; 0 to ``places``.
        places: more than the largest place there is: the number of keys of all processes.
        room: how many keys may be collected, of all processes together; 0 for none, which costs passes and no more.
        digit_bits: bits per histogram, 1 to 16.
        total: a tensor of int64 counts to their sums over all processes; one process has its own already.

    Raises:
        ValueError: k, room or digit_bits out of range.
        KeysChanged: a pass found other keys than the one before, so that no answer can be given. Where that shifts no
            count across the bracket it is not seen, and the answer is that of the last pass.
        Exception: what ``passes.refusal`` returns, for keys that can't be ranked.
    """
    if not 0 <= k <= places:
        raise ValueError(f"k must be in [0, {places}], got {k}")
    if room < 0:
        raise ValueError(f"room must be >= 0, got {room}")
    if not 1 <= digit_bits <= 16:
        raise ValueError(f"digit_bits must be in [1, 16], got {digit_bits}")
    bracket = _Bracket(0, 63 if passes.wide else 31, places, k)
    return _selected(passes, k, places, bracket, room, digit_bits, total)


def key_value(key: int, wide: bool) -> float:
    """The magnitude that a key stands for."""
    return struct.unpack("<d", struct.pack("<q", key))[0] if wide else struct.unpack("<f", struct.pack("<i", key))[0]


def _selected(
    passes: Passes, k: int, places: int, bracket: _Bracket, room: int, digit_bits: int, total: Total
) -> Ranked:
    """The k largest keys of ``passes``, the k-th of which is in the bracket."""
    if k == 0:
        _counts(passes, bracket, bracket.bits - 1, total)  # refuses what can't be ranked
        nothing = INFINITY_KEY[passes.wide]
        return Ranked(passes.emit(nothing, -1), nothing, -1)
    while bracket.bits > 0:
        bracket = _narrowed(passes, k, bracket, digit_bits, total)
        if bracket.held <= room:
            return _from_collected(passes, k, places, bracket, digit_bits, total)
    last = _last_place(passes, bracket, places, digit_bits, total)
    indices = passes.emit(bracket.low, last)
    if _lengths(total, indices) != [k]:
        raise KeysChanged
    return Ranked(indices, bracket.low, last)


def _counts(passes: Passes, bracket: _Bracket, shift: int, total: Total) -> Tensor:
    counts = total(passes.histogram(bracket.low, shift, 1 << (bracket.bits - shift))).cpu()
    if refused := int(counts[-1]):
        raise passes.refusal(refused)
    return counts[:-1]


def _narrowed(passes: Passes, k: int, bracket: _Bracket, digit_bits: int, total: Total) -> _Bracket:
    """The bin of the bracket that holds the k-th largest key."""
    shift = max(bracket.bits - digit_bits, 0)
    counts = _counts(passes, bracket, shift, total)
    bins = counts[:-1]
    # Those above are counted by the same pass, so that a bracket follows from one pass's keys alone.
    rank = k - int(counts[-1])
    from_top = bins.flip(0).cumsum(0)
    if not 0 < rank <= int(from_top[-1]):
        raise KeysChanged
    steps = int(torch.searchsorted(from_top, rank))
    at = len(bins) - 1 - steps
    held = int(bins[at])
    return _Bracket(bracket.low + (at << shift), shift, held, rank - (int(from_top[steps]) - held))


def _from_collected(passes: Passes, k: int, places: int, bracket: _Bracket, digit_bits: int, total: Total) -> Ranked:
    high = min(bracket.low + (1 << bracket.bits), INFINITY_KEY[passes.wide] + 1)  # 2**63 is no int64
    above, between = passes.collect(bracket.low, high)
    taken, held = _lengths(total, above, [index for index, _ in between])
    if not taken < k <= taken + held:
        raise KeysChanged
    collected = _Collected(passes, between)
    inside = _Bracket(bracket.low, bracket.bits, held, k - taken)
    rest = _selected(collected, k - taken, places, inside, 0, digit_bits, total)
    indices = [merged(one, other) for one, other in zip(above, rest.indices, strict=True)]
    return Ranked(indices, rest.key, rest.last_place)


def _last_place(passes: Passes, bracket: _Bracket, places: int, digit_bits: int, total: Total) -> int:
    """The place of the last coordinate that is taken of those with the one key of the bracket."""
    low, bits, wanted, held = 0, max(places - 1, 0).bit_length(), bracket.rank, bracket.held
    # Where all that are left are taken, any later place will do.
    while wanted < held and bits > 0:
        shift = max(bits - digit_bits, 0)
        counts = total(passes.ties(bracket.low, low, shift, 1 << (bits - shift))).cpu()
        wanted = bracket.rank - int(counts[-1])
        upto = counts[:-1].cumsum(0)
        if not 0 < wanted <= int(upto[-1]):
            raise KeysChanged
        at = int(torch.searchsorted(upto, wanted))
        held = int(counts[at])
        low, bits, wanted = low + (at << shift), shift, wanted - (int(upto[at]) - held)
    return low + (1 << bits) - 1


def _lengths(total: Total, *lists: Sequence[Tensor]) -> list[int]:
    """How many indices each list has, over all processes."""
    return total(torch.tensor([sum(len(index) for index in held) for held in lists])).tolist()


class _Collected:
    """Passes over the keys that one pass of others collected."""

    def __init__(self, source: Passes, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        nothing = torch.empty(0, dtype=torch.int64)
        self._source = source
        self._indices = [index for index, _ in pairs]
        self._keys = torch.cat([keys for _, keys in pairs]) if pairs else nothing
        places = [source.places(t, index) for t, index in enumerate(self._indices)]
        self._places = torch.cat(places) if places else nothing

    @property
    def wide(self) -> bool:
        return self._source.wide

    def histogram(self, low: int, shift: int, bins: int) -> Tensor:
        slots = ((self._keys[self._keys >= low] - low) >> shift).clamp_(max=bins)
        return torch.bincount(slots, minlength=bins + 2)

    def refusal(self, count: int) -> Exception:
        return self._source.refusal(count)

    def collect(self, low: int, high: int) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        raise AssertionError("what was collected is not collected again: it is asked for with room = 0")

    def places(self, tensor: int, index: Tensor) -> Tensor:
        return self._source.places(tensor, index)

    def ties(self, key: int, low: int, shift: int, bins: int) -> Tensor:
        return place_histogram(self._places[self._keys == key], low, shift, bins)

    def emit(self, key: int, last_place: int) -> list[Tensor]:
        taken = (self._keys > key) | ((self._keys == key) & (self._places <= last_place))
        parts = taken.split([len(index) for index in self._indices]) if self._indices else ()
        return [index[part] for index, part in zip(self._indices, parts, strict=True)]
