"""One call that writes checkpoints: what it goes on from, and what a later call has to agree with."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from fgunlearn import ops
from fgunlearn.batches import Loader
from fgunlearn.resuming.checkpoint import Checkpoint, check_checkpoint
from fgunlearn.resuming.claim import Claim
from fgunlearn.resuming.errors import CheckpointError
from fgunlearn.resuming.file import Contents, read, remove, remove_unfinished, write
from fgunlearn.resuming.identity import Identity, difference
from fgunlearn.resuming.random_states import RandomStates
from fgunlearn.resuming.workers import workers_aside


class Call:
    """A call with a ``checkpoint``. Where the file is there, it is read, and nothing else happens yet.

    Args:
        checkpoint: of the user's.
        kind: the called function's name.
        loaders: all that the call reads.

    Raises:
        TypeError, ValueError: no Checkpoint; no place for a file; a file that is no checkpoint of such a call, damaged
            or of another version; a loader's ``state_dict()`` that JSON can't hold.
        OSError: the file can't be read.
    """

    def __init__(self, checkpoint: Checkpoint, kind: str, loaders: Sequence[Loader | None]) -> None:
        self._checkpoint, self._kind, self._loaders = check_checkpoint(checkpoint), kind, loaders
        self._path = Path(checkpoint.path)
        self._identity: Identity = {}
        self._claim = Claim(self._path)
        self._found: Contents | None = None
        if self._path.exists():
            self._claim.take()
            self._found = read(self._path, kind)
            self._claim.take()  # once more: to close a file, as reading does, gives up the process's locks on it
        self._entered = RandomStates.now(loaders)
        self._began = self._entered if self._found is None else RandomStates.of(self._found.part("began"))

    @property
    def every(self) -> int:
        """Steps between two checkpoints."""
        return self._checkpoint.every

    @property
    def found(self) -> Contents | None:
        """What the caller gave :meth:`write`, to go on from; None where there is no file."""
        return None if self._found is None else self._found.part("state")

    @contextlib.contextmanager
    def unmoved_if_refused(self) -> Iterator[None]:
        """After an error inside, random numbers and loaders are where they were before the call."""
        try:
            yield
        except BaseException:
            self._claim.release()
            self._entered.restore(self._loaders)
            raise

    @contextlib.contextmanager
    def checking(self) -> Iterator[None]:
        """What is read inside comes in the order that it had in the first call; after an error nothing has moved."""
        with self.unmoved_if_refused():
            if self._found is not None:
                self._began.restore(self._loaders)
            yield

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What is read inside leaves random numbers and loaders as they are."""
        now = RandomStates.now(self._loaders)
        try:
            with workers_aside(self._loaders):
                yield
        finally:
            now.restore(self._loaders)

    def agree(self, identity: Identity) -> None:
        """Compares this call with the one that wrote the file, if there is one.

        Raises:
            ValueError: what differs.
        """
        versions = {"fgunlearn": ops.BUILD_INFO["version"], "torch": torch.__version__}
        identity = {**identity, "the data (checkpoint.data)": self._checkpoint.data}
        self._identity = {**identity, **{f"the version of {name}": str(found) for name, found in versions.items()}}
        if self._found is None:
            remove_unfinished(self._path)
            return
        found = difference(self._found.facts["identity"], self._identity)
        if found is not None:
            raise CheckpointError(
                f"checkpoint: {self._path} is of another call: {found}. Make the same call to go on, or remove the file"
            )

    def going_on(self) -> None:
        """Everything is found to be as it was, and was taken over: says so."""
        assert self._found is not None
        step, self._found = self._found.facts["step"], None  # which may be as large as the model
        if self._checkpoint.resumed is not None:
            self._checkpoint.resumed(step)

    def write(self, step: int, state: Contents) -> None:
        """Writes the file anew.

        Raises:
            OSError: it can't be written; an older one is still there.
            ValueError: the file there is another call's.
        """
        self._claim.check()
        facts: dict[str, Any] = {"kind": self._kind, "step": step, "identity": self._identity}
        contents = Contents({}, facts)
        contents.put("began", self._began.contents())
        contents.put("state", state)
        write(self._path, contents)
        self._claim.take()

    @contextlib.contextmanager
    def until_done(self, *hopeless: type[Exception]) -> Iterator[None]:
        """Removes the file when the work inside is done, or raises one of the errors that it would raise again.

        After another error before :meth:`going_on`, random numbers and loaders are where they were before the call.
        """
        try:
            yield
        except BaseException as error:
            if isinstance(error, hopeless):
                self._remove()
            elif self._found is not None:
                self._entered.restore(self._loaders)
            raise
        else:
            if not self._checkpoint.keep:
                self._remove()
        finally:
            self._claim.release()

    def _remove(self) -> None:
        """The work is done, or lost: what can't be removed makes no difference to that. Another call's file stays."""
        try:
            if self._claim.holds():
                remove(self._path)
        except OSError as error:
            warnings.warn(
                f"the checkpoint {self._path} is of no use any more, but can't be removed: {error}", stacklevel=2
            )
