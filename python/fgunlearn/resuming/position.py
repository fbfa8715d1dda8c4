"""The position in the data: which batch of which pass comes next, found again by going there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader

from fgunlearn.batches import Loader, without_samples
from fgunlearn.resuming.file import Contents
from fgunlearn.resuming.identity import digest
from fgunlearn.resuming.random_states import RandomStates


class Position:
    """A loader that is read pass after pass, a step for each batch with samples, and that knows where it is.

    A pass is gone through again from the random numbers that it began with. Model and loader may draw from the same
    generator in turns, so the batches that are skipped need not be those of then; the random numbers before the last of
    them are put back, and it is compared; then those of the moment of the checkpoint.

    Args:
        loader: any that can be read again.
        argument: its name in errors.
        every: steps between two checkpoints.
        others: what is read beside it, whose random numbers are to go on as well.
    """

    def __init__(self, loader: Loader, argument: str, every: int, others: Sequence[Loader | None] = ()) -> None:
        self._loader, self._argument, self._every = loader, argument, every
        self._all = [loader, *others]
        self._steps = 0  # batches with samples that were given
        self._taken = 0  # all batches of this pass that were
        self._pass_began: RandomStates | None = None
        self._before_last: RandomStates | None = None
        self._last = ""

    def __iter__(self) -> Iterator[Any]:
        """One more pass."""
        self._pass_began, self._taken = RandomStates.now([self._loader]), 0
        yield from self._following(iter(self._loader))

    def _following(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            remembered = (self._steps + 1) % self._every == 0
            if remembered:
                self._before_last = RandomStates.now([self._loader])
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._taken += 1
            if not without_samples(batch):
                if remembered:
                    self._last = digest(batch, self._argument)  # now: a step may change it in place
                self._steps += 1
            yield batch

    def contents(self) -> Contents:
        """Where it is: for a file, after a step whose number is a multiple of ``every``."""
        assert self._pass_began is not None
        assert self._before_last is not None
        found = Contents({}, {"steps": self._steps, "taken": self._taken, "last": self._last})
        found.put("pass", self._pass_began.contents())
        found.put("before", self._before_last.contents())
        found.put("now", RandomStates.now(self._all).contents())
        return found

    def rest(self, saved: Contents) -> Iterator[Any]:
        """Goes to where a file says, and gives the batches with samples that remain of that pass.

        The random numbers are those of that moment when this returns.

        Raises:
            ValueError: the loader gives other data than it did; the file is damaged.
        """
        loaders = [self._loader]
        with saved.well_formed():
            began, before, now = (RandomStates.of(saved.part(name)) for name in ("pass", "before", "now"))
            steps, taken, last = int(saved.facts["steps"]), int(saved.facts["taken"]), str(saved.facts["last"])
            if steps < 1 or taken < 1:
                raise ValueError(f"{steps} steps, and {taken} batches of a pass")
        began.restore(loaders)
        batches = iter(self._loader)
        for at in range(taken):
            if at == taken - 1:
                before.restore(loaders, reading=self._loader)
            try:
                batch = next(batches)
            except StopIteration:
                raise self._differs(f"only {at} batches", taken) from None
        if digest(batch, self._argument) != last:
            raise self._differs("another batch", taken)
        now.restore(self._all, reading=self._loader)
        self._steps, self._taken, self._pass_began = steps, taken, began
        return (batch for batch in self._following(batches) if not without_samples(batch))

    def _differs(self, what: str, taken: int) -> ValueError:
        if isinstance(self._loader, DataLoader):
            advice = "is it other data, or drawn by persistent_workers or a generator that the loader does not hold?"
        else:
            advice = (
                "if its order depends on more than global random numbers, it needs state_dict() and load_state_dict()"
            )
        return ValueError(
            f"checkpoint: {self._argument} gives {what} where it gave batch {taken} of a pass before the checkpoint; "
            + advice
        )
