"""The checkpoints of a loop that takes steps: its model and optimizer, where its data is, and what else it counts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fgunlearn.batches import Loader, device_of, wait_for
from fgunlearn.parameters import buffers_of
from fgunlearn.resuming.call import Call
from fgunlearn.resuming.checkpoint import Checkpoint
from fgunlearn.resuming.errors import CheckpointError
from fgunlearn.resuming.file import Contents, check_storable
from fgunlearn.resuming.identity import Identity, digest, digest_of_model
from fgunlearn.resuming.models import load_model, of_model
from fgunlearn.resuming.optimizers import load_optimizer, of_optimizer
from fgunlearn.resuming.position import Position
from fgunlearn.resuming.random_states import counts_for_itself
from fgunlearn.selection import Selection


class Steps:
    """The checkpoints of one call with such a loop; see :class:`fgunlearn.Checkpoint`.

    In this order: :meth:`checking` and :meth:`agree`; within :meth:`until_done` what comes before the loop, once more
    if it is one to go on with; :meth:`begin`, :meth:`rest`, and :meth:`after_step` after each step.

    Attributes:
        found: what the loop gave :meth:`after_step`, to go on from; None to begin.

    Args:
        checkpoint: of the user's.
        kind: the called function's name.
        model: as it is before the call.
        loaders: all that the call reads.

    Raises:
        TypeError, ValueError, OSError: as :class:`fgunlearn.resuming.call.Call`; a buffer that no file can hold.
    """

    def __init__(self, checkpoint: Checkpoint, kind: str, model: nn.Module, loaders: Sequence[Loader | None]) -> None:
        for name, _, _, buffer in buffers_of(model):
            if buffer is not None:
                check_storable(buffer, f"buffer {name!r}")
        self._call = Call(checkpoint, kind, loaders)
        self._model, self._loaders = model, loaders
        self._saved = self._call.found
        self.found = None if self._saved is None else self._saved.part("loop")
        self._earlier = self._apart = 0.0

    def checking(self) -> contextlib.AbstractContextManager[None]:
        """See :meth:`Call.checking`."""
        return self._call.checking()

    def aside(self) -> contextlib.AbstractContextManager[None]:
        """See :meth:`Call.aside`."""
        return self._call.aside()

    def agree(self, identity: Identity) -> None:
        """Compares the call with the one that wrote the file, if there is one: model and device, and what is given.

        Raises:
            ValueError: what differs.
        """
        about_model = {"the model": digest_of_model(self._model), "the model's device": str(device_of(self._model))}
        self._call.agree({**about_model, **identity})

    def until_done(self, *hopeless: type[Exception]) -> contextlib.AbstractContextManager[None]:
        """See :meth:`Call.until_done`."""
        return self._call.until_done(*hopeless)

    def begin(
        self,
        optimizer: torch.optim.Optimizer,
        selection: Selection | None,
        total: int,
        reading: Mapping[str, Loader],
        beside: tuple[str, Loader] | None = None,
        chosen: Sequence[Tensor] = (),
    ) -> None:
        """The loop begins, or goes on: model and optimizer are then as they were.

        Args:
            optimizer: a new one.
            selection: the only coordinates that change; None for all.
            total: the number of steps that the loop takes, at most.
            reading: what is read in turn, a batch with samples for each step, by its name in errors.
            beside: a loader that is read at the same time, a batch with samples for each step, after its name.
            chosen: what every call has computed anew, and is to come to the same.

        Raises:
            ValueError: one loader is to be read twice at the same time, and counts its passes.
            CheckpointError: another number of steps, or another thing chosen, than then; the file is damaged.
        """
        self._began = time.perf_counter()
        try:
            self._prepare(optimizer, selection, total, reading, beside, chosen)
        finally:
            self._apart += time.perf_counter() - self._began

    def _prepare(
        self,
        optimizer: torch.optim.Optimizer,
        selection: Selection | None,
        total: int,
        reading: Mapping[str, Loader],
        beside: tuple[str, Loader] | None,
        chosen: Sequence[Tensor],
    ) -> None:
        self._optimizer, self._selection, self._total = optimizer, selection, total
        self._chosen = digest(chosen)
        read = [*reading.values(), *([] if beside is None else [beside[1]])]
        for argument, loader in reading.items():
            if beside is not None and loader is beside[1] and counts_for_itself(loader):
                raise ValueError(
                    f"checkpoint: {beside[0]} and {argument} are one object, which counts its passes and is read twice "
                    "at the same time: give two of its kind"
                )
        others = [loader for loader in self._loaders if not any(loader is each for each in read)]
        self._position = Position(reading, self._call.every, others)
        self._beside = None if beside is None else Position(dict([beside]), self._call.every)
        if self._saved is None:
            return
        saved = self._saved
        with saved.well_formed():
            step, then = int(saved.facts["step"]), (saved.facts["total"], saved.facts["chosen"])
            if not 0 < step < then[0]:
                raise ValueError(f"{step} steps of {then[0]} are taken")
            self._earlier = float(saved.facts["seconds"])
        if then[0] != total:
            raise CheckpointError(
                f"checkpoint: {saved.source} is of a call of {then[0]} steps, and this is one of {total}"
            )
        if then[1] != self._chosen:
            raise CheckpointError(
                f"checkpoint: other coordinates are chosen than when {saved.source} was written: is the number of "
                "threads another one? Call as then, or remove the file to begin anew"
            )
        with saved.well_formed():
            load_model(self._model, selection, saved.part("model"))
            load_optimizer(optimizer, saved.part("optimizer"))

    def counted(self, argument: str) -> Loader:
        """The loader of that name, to be read in place of the one that was given."""
        beside = self._beside is not None and argument in self._beside.loaders
        position = self._beside if beside else self._position
        assert position is not None
        return position.counted(argument)

    def rest(self) -> tuple[Iterator[Any] | None, Iterator[Any] | None]:
        """What remains of the pass that was interrupted, and of the one beside it; None where there is none.

        Random numbers are then as they were at the checkpoint.

        Raises:
            ValueError: a loader gives other data than it did.
        """
        began, rest, beside = time.perf_counter(), None, None
        if self._saved is not None:
            with self._call.unmoved_if_refused():
                if self._beside is not None:
                    beside = self._beside.rest(self._saved.part("beside"))
                rest = self._position.rest(self._saved.part("position"))  # last: it puts back what that has drawn
            self._saved = self.found = None  # which may be as large as the model
            self._call.going_on()
        self._apart += time.perf_counter() - began
        return rest, beside

    @property
    def correction(self) -> float:
        """What to add to the seconds measured around the loop.

        That is the time of earlier calls, less what this one took to find where they were, to remember where it is, and
        to write checkpoints.
        """
        remembering = self._position.seconds + (0.0 if self._beside is None else self._beside.seconds)
        return self._earlier - self._apart - remembering

    def after_step(self, step: int, loop: Callable[[], Contents]) -> None:
        """Writes a checkpoint after every so many steps, but not after the last one.

        Args:
            step: the number of steps taken.
            loop: returns what the loop goes on with.

        Raises:
            OSError: it can't be written.
        """
        if step % self._call.every or step >= self._total:
            return
        wait_for(device_of(self._model))
        began = time.perf_counter()
        taken = began - self._began + self.correction
        state = Contents({}, {"step": step, "total": self._total, "chosen": self._chosen, "seconds": taken})
        state.put("loop", loop())
        state.put("model", of_model(self._model, self._selection))
        state.put("optimizer", of_optimizer(self._optimizer))
        state.put("position", self._position.contents())
        if self._beside is not None:
            state.put("beside", self._beside.contents())
        self._call.write(step, state)
        self._apart += time.perf_counter() - began
