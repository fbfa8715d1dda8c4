"""Scores gone over again and again and never all at hand: each reading makes them anew from the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fgunlearn import ops
from fgunlearn.batches import Loader, LossFunction, batch_size, with_last
from fgunlearn.progress import track
from fgunlearn.selection.arriving import CHUNK, Scratch, arriving_gradients, sum_dtype
from fgunlearn.selection.passes import KeysChanged
from fgunlearn.selection.scores import ACCUMULATED, damping
from fgunlearn.selection.strategies import ScoreKind

Consume = Callable[[int, int, Tensor], None]
"""Takes scores: the parameter's position, the flat index of the first, and they, 1-D; they last as long as the call."""


@dataclass(frozen=True)
class Source:
    """What scores are made from; the fields are the arguments of :func:`fgunlearn.select`."""

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    loader: Loader
    loss_fn: LossFunction
    kind: ScoreKind
    retain_loader: Loader | None
    progress: bool

    @property
    def numels(self) -> list[int]:
        """The number of coordinates of each parameter."""
        return [p.numel() for p in self.parameters.values()]

    def batches(self, argument: str = "loader", part: str = "") -> Iterator[tuple[Any, int]]:
        """The batches of "loader" or "retain_loader" that have samples, and how many; ``part`` is for the progress bar.

        Raises:
            ValueError: there is none.
        """
        loader = self.retain_loader if argument == "retain_loader" else self.loader
        assert loader is not None
        nothing = True
        for batch in track(loader, f"score ({self.kind}){part}", self.progress):
            if (size := batch_size(batch)) > 0:
                nothing = False
                yield batch, size
        if nothing:
            raise ValueError(f"{argument} is empty: there is no data to take gradients on")


class Readings(Protocol):
    """Scores of all parameters, up to the division by the number of samples where nothing else is done to them."""

    @property
    def samples(self) -> int:
        """The number of samples, once there was a reading."""

    def read(self, consume: Consume, *, whole: bool = False) -> None:
        """All scores in chunks, or with ``whole`` a parameter's at once; parameters in no particular order."""


def only_batch(source: Source) -> tuple[Any, int] | None:
    """The loader's one batch and its size; None where there are more. Reads no further than that takes."""
    for (batch, size), last in with_last(replace(source, progress=False).batches()):
        return (batch, size) if last else None
    return None


class OneBatch:
    """Scores of a single batch, each made as its gradient arrives: a reading is one forward and one backward pass.

    Beside the model and what autograd saves for the backward pass, memory holds one gradient at a time.
    """

    def __init__(self, source: Source, batch: object, size: int) -> None:
        self._source, self._batch = source, batch
        self.samples = size

    def read(self, consume: Consume, *, whole: bool = False) -> None:
        """See :class:`Readings`."""
        parameters = list(self._source.parameters.values())
        kind, size, reached, scratch = self._source.kind, self.samples, set(), Scratch(parameters[0].device)

        def receive(t: int, gradient: Tensor) -> None:
            reached.add(t)
            flat, theta = gradient.reshape(-1), None
            if kind == "saliency":
                theta = parameters[t].detach().reshape(-1)
            for at, end in _spans(flat.numel(), whole):
                scores = scratch.zeros(end - at, sum_dtype(flat))
                ops.score_accumulate_([scores], [flat[at:end]], ACCUMULATED[kind], float(size))
                if theta is not None:
                    scores.div_(size).mul_(theta[at:end]).abs_()
                consume(t, at, scores)

        arriving_gradients(self._source.model, self._source.parameters, self._batch, self._source.loss_fn, receive)
        for t, parameter in enumerate(parameters):
            if t not in reached:
                for at, end in _spans(parameter.numel(), whole):
                    consume(t, at, scratch.zeros(end - at, sum_dtype(parameter)))


class Groups:
    """Scores over many batches, of as many parameters at a time as ``budget`` bytes hold the sums of.

    A reading goes through the groups one after another, and each of them through the whole loader. A parameter is
    never divided, so that a group with a large one may take more. Where one group holds all, it is kept, and all
    readings after the first are free.
    """

    def __init__(self, source: Source, budget: int) -> None:
        self._source = source
        self._groups = grouped(source.parameters, budget // (2 if source.kind == "fisher_ratio" else 1))
        self._kept: list[Tensor] | None = None
        self._seen: dict[str, int] = {}
        self._damping: float | None = None

    @property
    def samples(self) -> int:
        """The number of samples, once there was a reading."""
        return self._seen["loader"]

    def read(self, consume: Consume, *, whole: bool = False) -> None:
        """See :class:`Readings`."""
        if self._source.kind == "fisher_ratio" and len(self._groups) > 1 and self._damping is None:
            each = (self._totals(self._means(number, "retain_loader")) for number in range(len(self._groups)))
            self._damping = damping([total for totals in each for total in totals], sum(self._source.numels))
        for number, group in enumerate(self._groups):
            scores = self._kept or self._scores(number)
            if len(self._groups) == 1:
                self._kept = scores
            for t, score in zip(group, scores, strict=True):
                for at, end in _spans(score.numel(), whole):
                    consume(t, at, score.view(-1)[at:end])
            del score, scores  # before the next group's are made

    def _scores(self, number: int) -> list[Tensor]:
        kind = self._source.kind
        if kind == "fisher_ratio":
            scores, kept = self._means(number, "loader"), self._means(number, "retain_loader")
            eps = self._damping or damping(self._totals(kept), sum(self._source.numels))
            for score in scores:
                score.div_(kept.pop(0).add_(eps))
            return scores
        if kind == "saliency":
            parameters = list(self._source.parameters.values())
            scores = self._means(number, "loader")
            for t, score in zip(self._groups[number], scores, strict=True):
                score.mul_(parameters[t].detach()).abs_()
            return scores
        return self._sums(number, "loader")

    def _means(self, number: int, argument: str) -> list[Tensor]:
        return [sums.div_(self._seen[argument]) for sums in self._sums(number, argument)]

    @staticmethod
    def _totals(means: Iterable[Tensor]) -> list[float]:
        return [float(mean.sum(dtype=torch.float64)) for mean in means]

    def _sums(self, number: int, argument: str) -> list[Tensor]:
        """What :func:`fgunlearn.selection.scores.accumulate_sums` has for the parameters of one group."""
        every = list(self._source.parameters.items())
        group = dict(every[t] for t in self._groups[number])
        sums = [torch.zeros(p.shape, dtype=sum_dtype(p), device=p.device) for p in group.values()]
        seen, kind = 0, ACCUMULATED[self._source.kind]
        part = f", part {number + 1} of {len(self._groups)}" if len(self._groups) > 1 else ""
        for batch, size in self._source.batches(argument, part):

            def receive(t: int, gradient: Tensor, size: int = size) -> None:
                ops.score_accumulate_([sums[t]], [gradient], kind, float(size))

            arriving_gradients(self._source.model, group, batch, self._source.loss_fn, receive)
            seen += size
        if self._seen.setdefault(argument, seen) != seen:
            raise KeysChanged
        return sums


def grouped(parameters: Mapping[str, Tensor], budget: int) -> list[list[int]]:
    """Positions of parameters in groups of neighbours whose sums take at most ``budget`` bytes, or of one alone."""
    groups: list[list[int]] = []
    left = 0
    for t, parameter in enumerate(parameters.values()):
        needed = parameter.numel() * sum_dtype(parameter).itemsize
        if not groups or needed > left:
            groups.append([])
            left = budget
        groups[-1].append(t)
        left -= needed
    return groups


def _spans(numel: int, whole: bool) -> Iterator[tuple[int, int]]:
    step = max(numel, 1) if whole else CHUNK
    return ((at, min(at + step, numel)) for at in range(0, numel, step))
