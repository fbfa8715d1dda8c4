"""What the steps of a method read and minimise: passes over loaders, and the terms of a batch."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fgunlearn.batches import Loader, LossFunction, checked_loss, count_batches, known_size, one_pass, without_samples


@dataclass(frozen=True)
class Terms:
    """What one step minimises, ``loss``; how many samples it took (0 for batches that do not tell); and for the record
    its parts on D_r and D_u.
    """

    loss: Tensor
    samples: int
    retain: Tensor | None = None
    forget: Tensor | None = None


@dataclass(frozen=True)
class Pass:
    """Once over a loader of ``batches`` batches, a step each, on what ``terms(batch, done)`` says.

    ``argument`` is the loader's name in errors; ``done`` is the share of all steps of the descent taken before.
    """

    loader: Loader
    argument: str
    batches: int
    terms: Callable[[Any, float], Terms]

    @classmethod
    def over(cls, loader: Loader, argument: str, terms: Callable[[Any, float], Terms]) -> Pass:
        """Over all batches that the loader has.

        Raises:
            TypeError, ValueError: it can't be read again and again, or is empty.
        """
        return cls(loader, argument, count_batches(loader, argument), terms)

    def read(
        self, counted: Loader | None = None, rest: Iterator[Any] | None = None, taken: int = 0
    ) -> Iterator[tuple[int, Any]]:
        """The batches that have samples and their places; no more than were counted: the schedule ends there.

        A warning says so if there are fewer.

        Args:
            counted: what is read in place of the loader, if anything.
            rest: what remains of a pass that was interrupted after ``taken`` batches; None for a new pass.
            taken: see rest.

        Raises:
            ValueError: a new pass has none.
        """
        came = taken
        loader = self.loader if counted is None else counted

        def no_more() -> Iterator[Any]:
            nonlocal came
            for batch in itertools.islice(loader if rest is None else rest, self.batches - taken):
                came += 1
                yield batch

        if rest is None:
            yield from one_pass(no_more(), self.argument)
        else:
            yield from ((place, batch) for place, batch in enumerate(no_more(), taken) if not without_samples(batch))
        if came < self.batches:
            warnings.warn(
                f"{self.argument} gave {came} batches in a pass, but its length is {self.batches}: there are fewer "
                "steps than its length promises",
                stacklevel=4,
            )


class Endless:
    """The batches of a loader that have samples, again and again.

    Raises:
        ValueError: a pass had none; the loader is called ``argument``.
    """

    def __init__(self, loader: Loader, argument: str) -> None:
        self.loader, self.argument = loader, argument
        self.read(loader, None)

    def read(self, loader: Loader, rest: Iterator[Any] | None) -> None:
        """From here on gives what remains of a pass, if there was one, and then the batches of that loader."""
        remaining = () if rest is None else (batch for batch in rest if not without_samples(batch))
        passes = (batch for _ in itertools.count() for _, batch in one_pass(loader, self.argument))
        self._batches = itertools.chain(remaining, passes)

    def __next__(self) -> Any:
        return next(self._batches)


def retain_terms(model: nn.Module, loss_fn: LossFunction) -> Callable[[Any, float], Terms]:
    """The plain loss on a batch of D_r."""

    def terms(batch: Any, done: float) -> Terms:
        loss = checked_loss(loss_fn(model, batch))
        return Terms(loss, known_size(batch) or 0, retain=loss)

    return terms
