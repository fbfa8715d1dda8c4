"""The position in the data: which batch of which pass comes next, found again by going there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader

from fgunlearn.batches import Loader, without_samples
from fgunlearn.resuming.errors import CheckpointError
from fgunlearn.resuming.file import Contents
from fgunlearn.resuming.identity import digest
from fgunlearn.resuming.random_states import RandomStates


class Position:
    """Loaders that are read in turn, pass after pass, a step for each batch with samples, and where that has come to.

    A pass is gone through again from the random numbers that it began with. Model and loader may draw from the same
    generator in turns, so the batches that are skipped need not be those of then; the random numbers before the last of
    them are put back, and it is compared; then those of the moment of the checkpoint.

    Attributes:
        seconds: what it took to remember where the loaders are.

    Args:
        loaders: any that can be read again, by their names in errors; one pass at a time.
        every: steps between two checkpoints.
        others: what is read beside them, whose random numbers are to go on as well.
    """

    def __init__(self, loaders: Mapping[str, Loader], every: int, others: Sequence[Loader | None] = ()) -> None:
        self.loaders, self._every = loaders, every
        self._all = [*loaders.values(), *others]
        self._steps = 0  # batches with samples that were given
        self._reading = ""  # the name of the loader that is read
        self._taken = 0  # all batches of this pass that were given
        self._pass_began: RandomStates | None = None
        self._before_last: RandomStates | None = None
        self._last = ""
        self.seconds = 0.0

    def counted(self, argument: str) -> Loader:
        """The loader of that name, each pass over which is counted here."""
        return _Counted(self, argument)

    def new_pass(self, argument: str) -> Iterator[Any]:
        """One more pass over the loader of that name."""
        loader = self.loaders[argument]
        self._pass_began, self._taken, self._reading = RandomStates.now([loader]), 0, argument
        yield from self._following(iter(loader))

    def _following(self, batches: Iterator[Any]) -> Iterator[Any]:
        loader = self.loaders[self._reading]
        while True:
            remembered = (self._steps + 1) % self._every == 0
            if remembered:
                with self._timed():
                    self._before_last = RandomStates.now([loader])
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._taken += 1
            if not without_samples(batch):
                if remembered:
                    with self._timed():
                        self._last = digest(batch, self._reading)  # now: a step may change it in place
                self._steps += 1
            yield batch

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began

    def contents(self) -> Contents:
        """Where it is: for a file, after a step whose number is a multiple of ``every``."""
        assert self._pass_began is not None
        assert self._before_last is not None
        facts = {"steps": self._steps, "reading": self._reading, "taken": self._taken, "last": self._last}
        found = Contents({}, facts)
        found.put("pass", self._pass_began.contents())
        found.put("before", self._before_last.contents())
        found.put("now", RandomStates.now(self._all).contents())
        return found

    def rest(self, saved: Contents) -> Iterator[Any]:
        """Goes to where a file says, and gives the batches that remain of that pass.

        The random numbers are those of that moment when this returns.

        Raises:
            ValueError: the loader gives other data than it did; the file is damaged.
        """
        with saved.well_formed():
            began, before, now = (RandomStates.of(saved.part(name)) for name in ("pass", "before", "now"))
            steps, taken, last = int(saved.facts["steps"]), int(saved.facts["taken"]), str(saved.facts["last"])
            reading = str(saved.facts["reading"])
            loader = self.loaders[reading]
            if steps < 1 or taken < 1:
                raise ValueError(f"{steps} steps, and {taken} batches of a pass")
        began.restore([loader])
        batches = iter(loader)
        for at in range(taken):
            if at == taken - 1:
                before.restore([loader], reading=loader)
            try:
                batch = next(batches)
            except StopIteration:
                raise _differs(loader, reading, f"only {at} batches", taken) from None
        if digest(batch, reading) != last:
            raise _differs(loader, reading, "another batch", taken)
        now.restore(self._all, reading=loader)
        self._steps, self._taken, self._pass_began, self._reading = steps, taken, began, reading
        return self._following(batches)


class _Counted:
    """A loader whose passes a position counts."""

    def __init__(self, position: Position, argument: str) -> None:
        self._position, self._argument = position, argument

    def __iter__(self) -> Iterator[Any]:
        return self._position.new_pass(self._argument)


def _differs(loader: Loader, argument: str, what: str, taken: int) -> CheckpointError:
    if isinstance(loader, DataLoader):
        advice = "is it other data, or drawn by persistent_workers or a generator that the loader does not hold?"
    else:
        advice = "if its order depends on more than global random numbers, it needs state_dict() and load_state_dict()"
    return CheckpointError(
        f"checkpoint: {argument} gives {what} where it gave batch {taken} of a pass before the checkpoint; {advice}"
    )
