"""Scores gone over again and again and never all at hand: each reading makes them anew from the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fgunlearn import ops
from fgunlearn.batches import Loader, LossFunction, batch_size, with_last
from fgunlearn.progress import track
from fgunlearn.scoring import CHUNK, ScoreKind
from fgunlearn.selection.arriving import Receive, Scratch, arriving_gradients, sum_dtype
from fgunlearn.selection.passes import KeysChanged
from fgunlearn.selection.scores import ACCUMULATED, damping

Consume = Callable[[int, int, Tensor], None]
"""Takes scores: the parameter's position, the flat index of the first, and they, 1-D; they last as long as the call."""


@dataclass(frozen=True)
class Step:
    """What one backward pass is taken on.

    Attributes:
        batch: a batch; of several processes, this one's.
        size: its samples; where the processes' batches are one batch together, of all of them.
        weight: what this process's loss is multiplied by.
    """

    batch: Any
    size: int
    weight: float = 1.0


@dataclass(frozen=True)
class Source:
    """What scores are made from; the fields are the arguments of :func:`fgunlearn.select`.

    Here is what a single process does; :mod:`fgunlearn.distributed.sources` has what several do.
    """

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    loader: Loader
    loss_fn: LossFunction
    kind: ScoreKind
    retain_loader: Loader | None
    progress: bool

    @cached_property
    def parts(self) -> list[Tensor]:
        """What this process has of each parameter, detached: scores are made of these coordinates."""
        return [p.detach() for p in self.parameters.values()]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.parts[0].device

    @property
    def numels(self) -> list[int]:
        """The number of coordinates of each part."""
        return [part.numel() for part in self.parts]

    @property
    def sum_sizes(self) -> list[int]:
        """Bytes that the sums of each parameter take; over several processes on that which holds most of it."""
        return [part.numel() * sum_dtype(part).itemsize for part in self.parts]

    @property
    def parameter_bytes(self) -> int:
        """Bytes of the parameters; over several processes on that which holds most."""
        return sum(part.nbytes for part in self.parts)

    def steps(self, argument: str = "loader", part: str = "") -> Iterator[Step]:
        """The batches of "loader" or "retain_loader" that have samples; ``part`` is for the progress bar.

        Raises:
            ValueError: there is none.
        """
        nothing = True
        for batch in track(self._data(argument), f"score ({self.kind}){part}", self.progress):
            if (size := batch_size(batch)) > 0:
                nothing = False
                yield Step(batch, size)
        if nothing:
            raise ValueError(f"{argument} is empty: there is no data to take gradients on")

    def only_step(self) -> Step | None:
        """The loader's one step, None where there are more. Reads no further than that takes."""
        for step, last in with_last(replace(self, progress=False).steps()):
            return step if last else None
        return None

    def take(self, step: Step, positions: Sequence[int], receive: Receive) -> None:
        """A forward and a backward pass: ``receive(t, gradient)`` for those of the parameters that the loss reaches.

        Gradients are of :attr:`parts`, and last as long as the call.
        """
        every = list(self.parameters.items())
        wanted = dict(every[t] for t in positions)
        arriving_gradients(self.model, wanted, step.batch, self.loss_fn, lambda at, g: receive(positions[at], g))

    def together(self) -> AbstractContextManager[None]:
        """Around steps that processes take each by itself: an error of one is an error of all."""
        return nullcontext()

    def added_up(self, sums: Sequence[Tensor], seen: int, argument: str) -> int:
        """Makes what this process has summed up the sums of all processes, in place; returns their samples."""
        return seen

    def everywhere(self, refused: Sequence[int]) -> Sequence[int]:
        """How many scores per parameter are not finite, of all processes, given those of this one's parts."""
        return refused

    def damping(self, totals: Sequence[float]) -> float:
        """eps of "fisher_ratio", from the sum of F_r over each part."""
        return damping(totals, sum(self.numels))

    def _data(self, argument: str) -> Loader:
        loader = self.retain_loader if argument == "retain_loader" else self.loader
        assert loader is not None
        return loader


class Readings(Protocol):
    """Scores of all parameters, up to the division by the number of samples where nothing else is done to them."""

    @property
    def samples(self) -> int:
        """The number of samples, once there was a reading."""

    def read(self, consume: Consume, *, whole: bool = False) -> None:
        """All scores in chunks, or with ``whole`` a parameter's at once; parameters in no particular order."""


class OneBatch:
    """Scores of a single batch, each made as its gradient arrives: a reading is one forward and one backward pass.

    Beside the model and what autograd saves for the backward pass, memory holds one gradient at a time.
    """

    def __init__(self, source: Source, step: Step) -> None:
        self._source, self._step = source, step
        self.samples = step.size

    def read(self, consume: Consume, *, whole: bool = False) -> None:
        """See :class:`Readings`."""
        parts = self._source.parts
        kind, size, reached, scratch = self._source.kind, self.samples, set(), Scratch(self._source.device)

        def receive(t: int, gradient: Tensor) -> None:
            reached.add(t)
            flat, theta = gradient.reshape(-1), None
            if kind == "saliency":
                theta = parts[t].reshape(-1)
            for at, end in _spans(flat.numel(), whole):
                scores = scratch.zeros(end - at, sum_dtype(flat))
                ops.score_accumulate_([scores], [flat[at:end]], ACCUMULATED[kind], float(size))
                if theta is not None:
                    scores.div_(size).mul_(theta[at:end]).abs_()
                consume(t, at, scores)

        self._source.take(self._step, range(len(parts)), receive)
        for t, part in enumerate(parts):
            if t not in reached:
                for at, end in _spans(part.numel(), whole):
                    consume(t, at, scratch.zeros(end - at, sum_dtype(part)))


class Groups:
    """Scores over many batches, of as many parameters at a time as ``budget`` bytes hold the sums of.

    A reading goes through the groups one after another, and each of them through the whole loader. A parameter is
    never divided, so that a group with a large one may take more. Where one group holds all, it is kept, and all
    readings after the first are free.
    """

    def __init__(self, source: Source, budget: int) -> None:
        self._source = source
        self._groups = grouped(source.sum_sizes, budget // (2 if source.kind == "fisher_ratio" else 1))
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
            self._damping = self._source.damping([total for totals in each for total in totals])
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
            eps = self._damping or self._source.damping(self._totals(kept))
            for score in scores:
                score.div_(kept.pop(0).add_(eps))
            return scores
        if kind == "saliency":
            scores = self._means(number, "loader")
            for t, score in zip(self._groups[number], scores, strict=True):
                score.mul_(self._source.parts[t]).abs_()
            return scores
        return self._sums(number, "loader")

    def _means(self, number: int, argument: str) -> list[Tensor]:
        return [sums.div_(self._seen[argument]) for sums in self._sums(number, argument)]

    @staticmethod
    def _totals(means: Iterable[Tensor]) -> list[float]:
        return [float(mean.sum(dtype=torch.float64)) for mean in means]

    def _sums(self, number: int, argument: str) -> list[Tensor]:
        """What :func:`fgunlearn.selection.scores.accumulate_sums` has for the parameters of one group."""
        source, group = self._source, self._groups[number]
        parts = {t: source.parts[t] for t in group}
        sums = {t: torch.zeros(p.shape, dtype=sum_dtype(p), device=p.device) for t, p in parts.items()}
        seen, kind = 0, ACCUMULATED[source.kind]
        part = f", part {number + 1} of {len(self._groups)}" if len(self._groups) > 1 else ""
        with source.together():
            for step in source.steps(argument, part):

                def receive(t: int, gradient: Tensor, size: int = step.size) -> None:
                    ops.score_accumulate_([sums[t]], [gradient], kind, float(size))

                source.take(step, group, receive)
                seen += step.size
        found = list(sums.values())
        seen = source.added_up(found, seen, argument)
        if self._seen.setdefault(argument, seen) != seen:
            raise KeysChanged
        return found


def grouped(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Positions of parameters in groups of neighbours whose sums take at most ``budget`` bytes, or of one alone.

    Args:
        sizes: bytes that the sums of each parameter take.
        budget: in bytes.
    """
    groups: list[list[int]] = []
    left = 0
    for t, needed in enumerate(sizes):
        if not groups or needed > left:
            groups.append([])
            left = budget
        groups[-1].append(t)
        left -= needed
    return groups


def _spans(numel: int, whole: bool) -> Iterator[tuple[int, int]]:
    if whole:
        return iter([(0, numel)])  # also of an empty part: others may have more of that parameter
    return ((at, min(at + CHUNK, numel)) for at in range(0, numel, CHUNK))
