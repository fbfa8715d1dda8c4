"""Top-K by a score that is never held: each pass makes the scores anew and keeps what it is after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.batches import Loader, check_read_again, evaluation_mode
from fgunlearn.ops.bracket import keys_ref
from fgunlearn.ops.select import index_dtype
from fgunlearn.scoring import default_budget
from fgunlearn.selection.ascending import counts_between
from fgunlearn.selection.passes import KeysChanged, k_largest, place_edges
from fgunlearn.selection.readings import Groups, OneBatch, Readings, Source
from fgunlearn.selection.scores import nonfinite

Memory = Literal["dense", "streaming", "compact"]
"""How scores are held while they are ranked, see :func:`fgunlearn.select`."""

BYTES_PER_COLLECTED = 4 * 48
"""A quarter of the budget again for coordinates around the threshold: index, key, place of each, twice, and slots."""

# Histograms of 512 KiB stay in a core's cache; a GPU counts at most 2**13 bins in shared memory.
_DIGIT_BITS, _DIGIT_BITS_CUDA = 16, 13


def top_streaming(
    source: Source, k: Sequence[int], each: bool, memory_budget: int | None
) -> tuple[list[Tensor], float | None, int]:
    """The top coordinates by a score, bit for bit those that it has when all of it is held.

    Args:
        source: model, data and kind of score; its loaders can be read again.
        k: how many of all; or with ``each`` one number per parameter.
        each: select from each parameter by itself.
        memory_budget: see :func:`fgunlearn.select`.

    Returns:
        Indices per parameter, the threshold (of the undivided sums where the kind is one of
        ``fgunlearn.scoring.FUSED_KINDS``; None with ``each``), and the number of samples.

    Raises:
        ValueError: an empty loader; a score that came out NaN or infinite.
        RuntimeError: scores that change from reading to reading.
    """
    budget = default_budget(source.parameter_bytes) if memory_budget is None else memory_budget
    with torch.no_grad(), evaluation_mode(source.model), one_answer():
        readings = readings_of(source, budget)
        if each:
            return top_of_each(source, readings, k), None, readings.samples
        indices, threshold = k_largest(
            ScorePasses(source, readings),
            k[0],
            sum(source.numels),
            room=budget // BYTES_PER_COLLECTED,
            digit_bits=_DIGIT_BITS_CUDA if source.device.type == "cuda" else _DIGIT_BITS,
        )
        return indices, threshold, readings.samples


@contextmanager
def one_answer() -> Iterator[None]:
    """Around passes: keys that changed from one to the next are an error of the data that they are made from."""
    try:
        yield
    except KeysChanged:
        raise RuntimeError(
            "memory='streaming' reads the data several times, and the gradients changed from one reading to the "
            "next: give a loader with the same batches in the same order each time (no shuffling, no random "
            "augmentation) and a loss_fn without random numbers, or use memory='dense', which reads once"
        ) from None


def check_loaders(loader: Loader, retain_loader: Loader | None) -> None:
    """Refuses data that can be read only once; ``retain_loader`` is None where it isn't read.

    Raises:
        TypeError: the loader is named.
    """
    for argument, given in (("loader", loader), ("retain_loader", retain_loader)):
        if argument == "retain_loader" and given is None:
            continue
        try:
            check_read_again(given, argument)  # type: ignore[arg-type]
        except TypeError as error:
            raise TypeError(
                f"{error}: memory='streaming' reads it several times; give list({argument}), or memory='dense'"
            ) from None


def readings_of(source: Source, budget: int) -> Readings:
    """Scores as they come, where there is one batch; else sums of as many parameters as fit the budget."""
    if source.kind != "fisher_ratio" and (step := source.only_step()) is not None:
        return OneBatch(source, step)
    return Groups(source, budget)


def top_of_each(source: Source, readings: Readings, k: Sequence[int]) -> list[Tensor]:
    """One reading: a parameter's scores are complete when they come, and others don't matter."""
    indices = [torch.empty(0, dtype=index_dtype(numel), device=source.device) for numel in source.numels]
    refused = [0] * len(indices)

    def consume(t: int, _: int, scores: Tensor) -> None:
        refused[t] = int(ops.count_nonfinite([scores]))
        if not refused[t]:
            (indices[t],), _threshold = ops.topk_select([scores], k[t])

    readings.read(consume, whole=True)
    raise_first(source, source.everywhere(refused))
    return indices


def raise_first(source: Source, refused: Sequence[int]) -> None:
    """Raises a ValueError that names the first parameter with scores that are not finite, if there is one."""
    for (name, parameter), count in zip(source.parameters.items(), refused, strict=True):
        if count:
            raise nonfinite(name, parameter.numel(), count)


class ScorePasses:
    """Readings as :class:`fgunlearn.selection.passes.Passes`: what is not finite counts as a NaN does."""

    def __init__(self, source: Source, readings: Readings) -> None:
        self._source, self._readings = source, readings
        self._numels = source.numels
        self._offsets = [sum(self._numels[:t]) for t in range(len(self._numels))]
        self._device = source.device
        self._refused = self._zeros(len(self._numels))
        self.wide = any(part.dtype == torch.float64 for part in source.parts)

    def _zeros(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.int64, device=self._device)

    def histogram(self, low: int, shift: int, bins: int) -> Tensor:
        """Counts of the keys' leading bits."""
        counts, refused = self._zeros(bins + 2), self._zeros(len(self._numels))

        def consume(t: int, _: int, scores: Tensor) -> None:
            if self.counts(t):
                counts.add_(ops.bracket_histogram([scores], low, shift, bins, self.wide))
            refused[t : t + 1].add_(ops.count_nonfinite([scores]))

        self._readings.read(consume)
        self._refused = refused
        counts[-1] = refused.sum()
        return counts

    def refusal(self, count: int) -> Exception:
        """An error that names the first parameter whose scores are not all finite."""
        try:
            raise_first(self._source, self._source.everywhere(self._refused.tolist()))
        except ValueError as error:
            return error
        raise AssertionError(f"{count} scores were refused, and none is left")

    def collect(self, low: int, high: int) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """The coordinates above a bracket, and those in it with their keys."""
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
        """Flat indices into the concatenation of all parameters."""
        return index.long() + self._offsets[tensor]

    def ties(self, key: int, low: int, shift: int, bins: int) -> Tensor:
        """Counts of the leading bits of the places of one key."""
        counts, edges = self._zeros(bins + 1), place_edges(low, shift, bins, self._device)

        def consume(t: int, at: int, scores: Tensor) -> None:
            if self.counts(t):
                _, (equal,) = ops.bracket_split([scores], key, key + 1, self.wide)
                counts.add_(counts_between(equal, self.before(t, edges) - at))

        self._readings.read(consume)
        return counts

    def emit(self, key: int, last_place: int) -> list[Tensor]:
        """What is selected."""
        indices = self._lists()

        def consume(t: int, at: int, scores: Tensor) -> None:
            end = int(self.before(t, torch.tensor([last_place + 1])))  # up to there an equal key will do
            taken = min(max(end - at, 0), len(scores))
            (early,), _ = ops.bracket_split([scores[:taken]], key, key, self.wide)
            (late,), _ = ops.bracket_split([scores[taken:]], key + 1, key + 1, self.wide)
            indices[t] += [self._shifted(t, early, at), self._shifted(t, late, at + taken)]

        self._readings.read(consume)
        return [self._joined(t, parts) for t, parts in enumerate(indices)]

    def counts(self, tensor: int) -> bool:
        """Whether this process counts a parameter's part: of several that hold the same part one does."""
        return True

    def before(self, tensor: int, places: Tensor) -> Tensor:
        """How many of a parameter's coordinates here come before each place; any number below 0 for 0, or above all."""
        return places - self._offsets[tensor]

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
