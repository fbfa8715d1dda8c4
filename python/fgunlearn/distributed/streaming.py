"""Top-K over several processes by a score that none of them ever holds: passes whose counts are added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.batches import evaluation_mode
from fgunlearn.distributed.layout import Layout, layout_of
from fgunlearn.distributed.ranking import Parts, digit_bits_of, offsets_of, top_of
from fgunlearn.distributed.sources import ReplicaSource, ShardedSource
from fgunlearn.ops.select import index_dtype
from fgunlearn.scoring import default_budget
from fgunlearn.selection.ascending import merged
from fgunlearn.selection.passes import Ranked, key_value, ranked
from fgunlearn.selection.readings import Readings
from fgunlearn.selection.streaming import (
    BYTES_PER_COLLECTED,
    ScorePasses,
    one_answer,
    raise_first,
    readings_of,
    top_of_each,
)

# Two passes where scores are spread, as with the 16 bits of one process; and less than 1 MiB is sent for any scores.
_DIGIT_BITS, _DIGIT_BITS_CUDA = 14, 13


def top_streaming_over(
    source: ShardedSource | ReplicaSource, k: Sequence[int], each: bool, memory_budget: int | None
) -> tuple[list[Tensor], float | None, int]:
    """The top coordinates by a score, bit for bit those that processes find that hold all of it.

    Every decision about the next pass is taken from counts that all processes have, so that they go over the data
    equally often, and raise together what is wrong with it.

    Args:
        source: model, data and kind of score; its loaders can be read again.
        k: how many of all; or with ``each`` one number per parameter.
        each: select from each parameter by itself.
        memory_budget: see :func:`fgunlearn.select`; the same on all processes.

    Returns:
        Indices per parameter, of shards into this process's part; threshold and number of samples as of
        :func:`fgunlearn.selection.streaming.top_streaming`.

    Raises:
        ValueError, RuntimeError: see there; on all processes.
    """
    budget = default_budget(source.parameter_bytes) if memory_budget is None else memory_budget
    with torch.no_grad(), evaluation_mode(source.model), one_answer():
        readings = readings_of(source, budget)
        if each and isinstance(source, ShardedSource):
            return _top_of_each_shard(source, readings, k), None, readings.samples
        if each:
            return top_of_each(source, readings, k), None, readings.samples
        passes = _PartPasses(source, readings, _layouts(source))
        found = ranked(
            passes,
            k[0],
            passes.places_end,
            room=budget // BYTES_PER_COLLECTED,
            digit_bits=_DIGIT_BITS_CUDA if source.device.type == "cuda" else _DIGIT_BITS,
            total=source.processes.sum,
        )
        return passes.everywhere(found), key_value(found.key, passes.wide), readings.samples


def _layouts(source: ShardedSource | ReplicaSource) -> list[Layout]:
    if isinstance(source, ShardedSource):
        return source.layouts
    # All replicas have the same scores, save where their parameters have drifted apart: they count rank 0's, and so
    # take the same decisions even then.
    return [replace(layout_of(part), first=source.processes.rank == 0) for part in source.parts]


def _top_of_each_shard(source: ShardedSource, readings: Readings, k: Sequence[int]) -> list[Tensor]:
    """One reading, in which processes rank a parameter's scores together the moment it is complete."""
    indices = [torch.empty(0, dtype=index_dtype(numel), device=source.device) for numel in source.numels]
    refused = [0] * len(indices)
    numels = [layout.numel for layout in source.layouts]
    bits = digit_bits_of(numels, any(part.dtype == torch.float64 for part in source.parts))
    names = list(source.parameters)

    def consume(t: int, _: int, scores: Tensor) -> None:
        layout = source.layouts[t]
        count = ops.count_nonfinite([scores])
        refused[t] = int(source.processes.sum(count if layout.first else torch.zeros_like(count)))
        if not refused[t]:
            parts = Parts([scores], [layout], source.processes, [f"the score of {names[t]!r}"])
            (indices[t],), _threshold = top_of(parts, k[t], layout.numel, source.processes, bits)

    readings.read(consume, whole=True)
    raise_first(source, refused)
    return indices


class _PartPasses(ScorePasses):
    """Passes over the scores of this process's parts.

    Of several processes that hold the same part the first counts it. The others keep what they find in it to
    themselves, so that what is selected of it is known without another pass.
    """

    def __init__(self, source: ShardedSource | ReplicaSource, readings: Readings, layouts: Sequence[Layout]) -> None:
        super().__init__(source, readings)
        self._layouts = list(layouts)
        self._offsets = offsets_of(layouts)
        self.places_end = sum(layout.numel for layout in layouts)
        self._own: dict[int, tuple[Tensor, tuple[Tensor, Tensor]]] = {}

    def collect(self, low: int, high: int) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        above, pairs = super().collect(low, high)
        for t, layout in enumerate(self._layouts):
            if not layout.first:
                index, keys = pairs[t]
                self._own[t] = above[t], pairs[t]
                above[t], pairs[t] = above[t][:0], (index[:0], keys[:0])
        return above, pairs

    def emit(self, key: int, last_place: int) -> list[Tensor]:
        indices = super().emit(key, last_place)
        for t, layout in enumerate(self._layouts):
            if not layout.first:
                nothing = indices[t][:0]
                self._own[t] = indices[t], (nothing, nothing.long())
                indices[t] = nothing
        return indices

    def everywhere(self, found: Ranked) -> list[Tensor]:
        """What is selected of all parts that this process holds, also of those that another one counts."""
        indices = list(found.indices)
        for t, (above, (index, keys)) in self._own.items():
            taken = (keys > found.key) | ((keys == found.key) & (self.places(t, index) <= found.last_place))
            indices[t] = merged(above, index[taken])
        return indices

    def places(self, tensor: int, index: Tensor) -> Tensor:
        return self._layouts[tensor].to_global(index) + self._offsets[tensor]

    def counts(self, tensor: int) -> bool:
        return self._layouts[tensor].first

    def before(self, tensor: int, places: Tensor) -> Tensor:
        return self._layouts[tensor].locals_before(places - self._offsets[tensor])
