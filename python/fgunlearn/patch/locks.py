"""Who has a checkpoint: any number of calls that read it, or one that changes it where it lies, or replaces it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fgunlearn.checkpoint_files import INDEX, CheckpointFiles, check_regular, read_checkpoint
from fgunlearn.files import naming
from fgunlearn.patch.journal import refuse_unfinished


@contextlib.contextmanager
def reading(checkpoint: CheckpointFiles) -> Iterator[None]:
    """No call changes the checkpoint where it lies meanwhile, or has begun to; others may read it, too.

    A file system without locks keeps nobody out.

    Raises:
        ValueError: a call does; a change in place was interrupted; another program has put other files there since the
            checkpoint's headers were read, or did so meanwhile.
        OSError: a file can't be opened.
    """
    with contextlib.ExitStack() as locked:
        held = []
        for each in dict.fromkeys([checkpoint.path, *(file.path for file in checkpoint.files)]):
            file = locked.enter_context(each.open("rb"))
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(f"{each} is being changed by another call of fgunlearn") from error
            except OSError:
                pass
            else:
                locked.callback(fcntl.flock, file, fcntl.LOCK_UN)  # a child that was forked may have it, too
            held.append((file, each))
        refuse_unfinished(checkpoint)
        if read_checkpoint(checkpoint.path, links=True) != checkpoint:
            raise ValueError(f"{checkpoint.path} was replaced just now: call again")
        yield
        for file, each in held:
            _check_still_there(file, each)


@contextlib.contextmanager
def alone(path: Path, argument: str) -> Iterator[None]:
    """No other call reads, changes or replaces the checkpoint meanwhile.

    Args:
        path: of the checkpoint.
        argument: what it is called in errors.

    Raises:
        ValueError: one does; a file is read-only; the path is a folder's, or a symbolic link's, beside which nobody
            looks for the journal.
        OSError: there is no such file, or it can't be locked.
    """
    if path.is_symlink():
        raise ValueError(f"{argument}: {path} is a symbolic link: name the file itself to change it in place")
    if path.is_dir():
        raise ValueError(f"{argument}: {path} is a folder: name its safetensors file, or its index")
    with contextlib.ExitStack() as locked:

        def lock(each: Path) -> None:
            check_regular(each)
            if not each.stat().st_mode & 0o222 or not os.access(each, os.W_OK):
                raise ValueError(f"{argument}: {each} is read-only")
            file = locked.enter_context(each.open("r+b"))  # for writing: what some network file systems ask of a lock
            try:
                with naming(each):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(f"{argument}: {each} is being read or changed by another call of fgunlearn") from error
            locked.callback(fcntl.flock, file, fcntl.LOCK_UN)  # a child that was forked may have it, too
            _check_still_there(file, each)

        lock(path)
        if path.name.endswith(INDEX):  # its files may be changed by their own names, or be in another index as well
            for file in read_checkpoint(path).files:
                lock(file.path)
        yield


def _check_still_there(file: BinaryIO, path: Path) -> None:
    """That an open file is the one at that path.

    Raises:
        ValueError: it isn't any more.
    """
    if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
        raise ValueError(f"{path} was replaced just now: call again")
