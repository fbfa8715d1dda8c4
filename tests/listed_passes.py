"""Passes over a list of tensors that lie here, whole or as one of several ranks' parts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.ops.bracket import keys_ref
from fgunlearn.selection.passes import place_histogram


class Listed:
    """The keys of ``tensors``; ``places[t]`` are those of tensor t's elements. Counts what it is asked for."""

    def __init__(self, tensors: Sequence[Tensor], wide: bool | None = None, places: Sequence[Tensor] | None = None):
        self.tensors = list(tensors)
        self.wide = any(t.dtype == torch.float64 for t in tensors) if wide is None else wide
        ends = [sum(t.numel() for t in tensors[:n]) for n in range(len(tensors))]
        own = [torch.arange(t.numel()) + end for t, end in zip(tensors, ends, strict=True)]
        self.place = own if places is None else list(places)
        self.asked: list[str] = []
        self.largest_collected = 0

    def histogram(self, low: int, shift: int, bins: int) -> Tensor:
        self.asked.append("histogram")
        return ops.bracket_histogram(self.tensors, low, shift, bins, self.wide)

    def refusal(self, count: int) -> Exception:
        return ValueError(f"{count} keys can't be ranked")

    def collect(self, low: int, high: int) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        self.asked.append("collect")
        above, between = ops.bracket_split(self.tensors, low, high, self.wide)
        self.largest_collected = sum(len(index) for index in between)
        return above, [(i, self._keys(t)[i.long()]) for t, i in enumerate(between)]

    def places(self, tensor: int, index: Tensor) -> Tensor:
        return self.place[tensor][index.long()]

    def ties(self, key: int, low: int, shift: int, bins: int) -> Tensor:
        self.asked.append("ties")
        equal = [self.place[t][self._keys(t) == key] for t in range(len(self.tensors))]
        return place_histogram(torch.cat([torch.zeros(0, dtype=torch.int64), *equal]), low, shift, bins)

    def emit(self, key: int, last_place: int) -> list[Tensor]:
        self.asked.append("emit")
        indices = []
        for t, place in enumerate(self.place):
            keys = self._keys(t)
            taken = (keys > key) | ((keys == key) & (place <= last_place))
            indices.append(taken.nonzero().flatten().to(torch.int32))
        return indices

    def _keys(self, t: int) -> Tensor:
        return keys_ref(self.tensors[t], self.wide)


def on_ranks(count: int, work: Callable[[int, Callable[[Tensor], Tensor]], object]) -> list[object]:
    """``work(rank, total)`` on as many threads; ``total`` adds up over them, as an all-reduce does."""
    barrier = threading.Barrier(count, timeout=60)
    given: list[Tensor] = [torch.zeros(0)] * count
    answers: list[object] = [None] * count

    def run(rank: int) -> None:
        def total(counts: Tensor) -> Tensor:
            given[rank] = counts
            barrier.wait()
            result = torch.stack(given).sum(0)
            barrier.wait()
            return result

        try:
            answers[rank] = work(rank, total)
        except Exception as error:
            answers[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers
