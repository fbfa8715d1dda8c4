"""Whose a checkpoint's file is: that of the call that wrote it last, or that goes on from it, while it is at work."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import BinaryIO

from fgunlearn.resuming.errors import CheckpointError


class Claim:
    """What a call holds of the file at a path: a POSIX lock, which worker processes don't inherit.

    A process does not lock itself out, so beside that the file must be the one that was claimed. A file system without
    locks leaves that alone.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def take(self) -> None:
        """The file that is there now is this call's.

        Raises:
            ValueError: it is that of a call at work.
            OSError: it can't be opened.
        """
        file: BinaryIO
        try:
            file = self._path.open("r+b")
        except PermissionError:
            file = self._path.open("rb")
        try:
            if file.writable():
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.close()
                raise self._taken() from error
        self.release()
        self._file = file

    def check(self) -> None:
        """That this call may put its file there, or remove what is there.

        Raises:
            ValueError: another call's file is there.
        """
        if not self.holds() and self._path.exists():
            raise self._taken()

    def holds(self) -> bool:
        """Whether the file that is there is this call's."""
        if self._file is None:
            return False
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        return False

    def release(self) -> None:
        """It is free for another call."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _taken(self) -> CheckpointError:
        return CheckpointError(
            f"checkpoint: {self._path} is the file of another call that is at work, or was since this one began: give "
            "each call a path of its own"
        )
