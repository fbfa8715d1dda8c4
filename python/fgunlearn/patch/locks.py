"""Who has a checkpoint: any number of calls that read it, or one that changes it where it lies, or replaces it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from fgunlearn.checkpoint_files import INDEX, CheckpointFiles, check_regular, read_checkpoint
from fgunlearn.files import naming
from fgunlearn.patch.journal import refuse_unfinished


@contextlib.contextmanager
def shared(paths: Iterable[Path]) -> Iterator[Callable[[], None]]:
    """No call changes the files where they lie, or replaces them, meanwhile; others may read them, too.

    A file system without locks keeps nobody out.

    Yields:
        What raises a ValueError if another program has put other files there since.

    Raises:
        ValueError: a call does.
        OSError: a file can't be opened.
    """
    with contextlib.ExitStack() as locked:
        held = []
        for path in dict.fromkeys(paths):
            file = locked.enter_context(path.open("rb"))
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(f"{path} is being changed by another call of fgunlearn") from error
            except OSError:
                pass
            else:
                locked.callback(fcntl.flock, file, fcntl.LOCK_UN)  # a child that was forked may have it, too
            held.append((file, path))

        def check() -> None:
            for file, path in held:
                _check_still_there(file, path)

        check()
        yield check


@contextlib.contextmanager
def reading(checkpoint: CheckpointFiles) -> Iterator[Callable[[], None]]:
    """:func:`shared` for a checkpoint, of which no change in place is unfinished, and which is as it was read.

    Yields:
        See :func:`shared`: for whoever does not compare what was read with hashes.

    Raises:
        ValueError: a call changes it, or one that did so was interrupted; it was replaced since its headers were read.
        OSError: a file can't be opened.
    """
    with shared([checkpoint.path, *(file.path for file in checkpoint.files)]) as check:
        refuse_unfinished(checkpoint)
        if read_checkpoint(checkpoint.path, links=True) != checkpoint:
            raise _replaced(checkpoint.path)
        yield check


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
    try:
        same = os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        same = False
    if not same:
        raise _replaced(path)


def _replaced(path: Path) -> ValueError:
    return ValueError(f"{path} was replaced just now: call again")
