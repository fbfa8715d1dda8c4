"""Top-K by a score that is never held: each pass makes the scores anew and keeps what it is after."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.batches import check_read_again, evaluation_mode
from fgunlearn.ops.bracket import keys_ref
from fgunlearn.ops.select import index_dtype
from fgunlearn.selection.passes import KeysChanged, k_largest, place_histogram
from fgunlearn.selection.readings import Groups, OneBatch, Readings, Source, only_batch
from fgunlearn.selection.scores import nonfinite

DEFAULT_BUDGET = 2**28
"""``memory_budget`` of :func:`fgunlearn.select` where none is given, in bytes."""

# A quarter of the budget again for coordinates around the threshold: index, key and place of each, twice, and slots.
_BYTES_PER_COLLECTED = 4 * 48
# Histograms of 512 KiB stay in a core's cache; a GPU counts at most 2**13 bins in shared memory.
_DIGIT_BITS, _DIGIT_BITS_CUDA = 16, 13


def top_streaming(
    source: Source, k: Sequence[int], each: bool, memory_budget: int
) -> tuple[list[Tensor], float | None, int]:
    """The top coordinates by a score, bit for bit those that it has when all of it is held.

    Args:
        source: model, data and kind of score.
        k: how many of all; or with ``each`` one number per parameter.
        each: select from each parameter by itself.
        memory_budget: see :func:`fgunlearn.select`.

    Returns:
        Indices per parameter, the threshold (of the undivided sums where the kind is one of
        ``fgunlearn.selection.scores.FUSED_KINDS``; None with ``each``), and the number of samples.

    Raises:
        TypeError: a loader that can't be read again.
        ValueError: an empty loader; a score that came out NaN or infinite.
        RuntimeError: scores that change from reading to reading.
    """
    _check_loaders(source)
    with torch.no_grad(), evaluation_mode(source.model):
        readings = _readings(source, memory_budget)
        try:
            if each:
                indices, threshold = _top_of_each(source, readings, k), None
            else:
                on_cuda = next(iter(source.parameters.values())).is_cuda
                indices, threshold = k_largest(
                    _ScorePasses(source, readings),
                    k[0],
                    sum(source.numels),
                    room=memory_budget // _BYTES_PER_COLLECTED,
                    digit_bits=_DIGIT_BITS_CUDA if on_cuda else _DIGIT_BITS,
                )
        except KeysChanged:
            raise RuntimeError(
                "memory='streaming' reads the data several times, and the gradients changed from one reading to the "
                "next: give a loader with the same batches in the same order each time (no shuffling, no random "
                "augmentation) and a loss_fn without random numbers, or use memory='dense', which reads once"
            ) from None
    return indices, threshold, readings.samples


def _check_loaders(source: Source) -> None:
    loaders = {"loader": source.loader}
    if source.kind == "fisher_ratio":
        assert source.retain_loader is not None
        loaders["retain_loader"] = source.retain_loader
    for argument, loader in loaders.items():
        try:
            check_read_again(loader, argument)
        except TypeError as error:
            raise TypeError(
                f"{error}: memory='streaming' reads it several times; give list({argument}), or memory='dense'"
            ) from None


def _readings(source: Source, memory_budget: int) -> Readings:
    if source.kind != "fisher_ratio" and (found := only_batch(source)) is not None:
        return OneBatch(source, *found)
    return Groups(source, memory_budget)


def _top_of_each(source: Source, readings: Readings, k: Sequence[int]) -> list[Tensor]:
    """One reading: a parameter's scores are complete when they come, and others don't matter."""
    numels = source.numels
    device = next(iter(source.parameters.values())).device
    indices = [torch.empty(0, dtype=index_dtype(numel), device=device) for numel in numels]
    refused = [0] * len(numels)

    def consume(t: int, _: int, scores: Tensor) -> None:
        refused[t] = int(ops.count_nonfinite([scores]))
        if not refused[t]:
            (indices[t],), _threshold = ops.topk_select([scores], k[t])

    readings.read(consume, whole=True)
    _raise_first(source, refused)
    return indices


def _raise_first(source: Source, refused: Sequence[int]) -> None:
    for (name, parameter), count in zip(source.parameters.items(), refused, strict=True):
        if count:
            raise nonfinite(name, parameter.numel(), count)


class _ScorePasses:
    """Readings as :class:`fgunlearn.selection.passes.Passes`: what is not finite counts as a NaN does."""

    def __init__(self, source: Source, readings: Readings) -> None:
        self._source, self._readings = source, readings
        self._numels = source.numels
        self._offsets = [sum(self._numels[:t]) for t in range(len(self._numels))]
        self._device = next(iter(source.parameters.values())).device
        self._refused = self._zeros(len(self._numels))
        self.wide = any(p.dtype == torch.float64 for p in source.parameters.values())

    def _zeros(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.int64, device=self._device)

    def histogram(self, low: int, shift: int, bins: int) -> Tensor:
        counts, refused = self._zeros(bins + 2), self._zeros(len(self._numels))

        def consume(t: int, _: int, scores: Tensor) -> None:
            counts.add_(ops.bracket_histogram([scores], low, shift, bins, self.wide))
            refused[t : t + 1].add_(ops.count_nonfinite([scores]))

        self._readings.read(consume)
        self._refused = refused
        counts[-1] = refused.sum()
        return counts

    def refusal(self, count: int) -> Exception:
        refused = self._refused.tolist()
        t = next(t for t, found in enumerate(refused) if found)
        return nonfinite(list(self._source.parameters)[t], self._numels[t], refused[t])

    def collect(self, low: int, high: int) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        above, between, keys = self._lists(), self._lists(), self._lists()

        def consume(t: int, at: int, scores: Tensor) -> None:
            (over,), (within,) = ops.bracket_split([scores], low, high, self.wide)
            keys[t].append(keys_ref(scores[within.long()], self.wide))
            above[t].append(self._shifted(t, over, at))
            between[t].append(self._shifted(t, within, at))

        self._readings.read(consume)
        pairs = [(self._joined(t, between[t]), torch.cat([self._zeros(0), *keys[t]])) for t in range(len(self._numels))]
        return [self._joined(t, parts) for t, parts in enumerate(above)], pairs

    def places(self, tensor: int, index: Tensor) -> Tensor:
        return index.long() + self._offsets[tensor]

    def ties(self, key: int, low: int, shift: int, bins: int) -> Tensor:
        counts = self._zeros(bins + 1)

        def consume(t: int, at: int, scores: Tensor) -> None:
            _, (equal,) = ops.bracket_split([scores], key, key + 1, self.wide)
            if len(equal):
                counts.add_(place_histogram(self.places(t, equal).add_(at), low, shift, bins))

        self._readings.read(consume)
        return counts

    def emit(self, key: int, last_place: int) -> list[Tensor]:
        indices = self._lists()

        def consume(t: int, at: int, scores: Tensor) -> None:
            first = self._offsets[t] + at
            taken = min(max(last_place + 1 - first, 0), len(scores))  # up to there an equal key will do
            (early,), _ = ops.bracket_split([scores[:taken]], key, key, self.wide)
            (late,), _ = ops.bracket_split([scores[taken:]], key + 1, key + 1, self.wide)
            indices[t] += [self._shifted(t, early, at), self._shifted(t, late, at + taken)]

        self._readings.read(consume)
        return [self._joined(t, parts) for t, parts in enumerate(indices)]

    def _lists(self) -> list[list[Tensor]]:
        return [[] for _ in self._numels]

    def _shifted(self, t: int, index: Tensor, by: int) -> Tensor:
        """A chunk's indices as the parameter's; in place where the dtype allows."""
        return index.to(index_dtype(self._numels[t])).add_(by)

    def _joined(self, t: int, parts: list[Tensor]) -> Tensor:
        """A parameter's parts, in order, as one; the parts are gone."""
        nothing = torch.empty(0, dtype=index_dtype(self._numels[t]), device=self._device)
        joined = torch.cat([nothing, *parts])
        parts.clear()
        return joined
