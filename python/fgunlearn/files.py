"""Files that are either old or new, never half-written."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], mode: int | None = None) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; when the block ends well, that file takes ``path``'s place.

    The new bytes are on disk (fsync) before the rename, so a crash leaves the old file or the new one. After an
    exception, Ctrl-C included, the temporary file is gone and ``path`` is as it was. A process that is killed leaves
    the temporary file, a hidden one that ends in ``.part``.

    Args:
        path: of the file.
        mode: permissions of a file that is new, before the umask; a file that is there keeps its own.

    Raises:
        OSError: the folder does not exist or can't be written.
    """
    target = Path(path)
    temporary = beside(target)
    try:
        with naming(target):
            # Here, where Ctrl-C leads to its removal: to make a file may take a while.
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            own = 0o666 if mode is None else mode
            permissions = target.stat().st_mode & 0o777 if target.exists() else own & ~umask()
            yield temporary
            temporary.chmod(permissions)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            with renamed_on_disk(target.parent):
                temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Has an error of the system say which file it is about, where it does not: a lack of space doesn't."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def beside(path: Path) -> Path:
    """A name in the same folder that nothing has, and nobody guesses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")


def begun_beside(path: Path) -> list[Path]:
    """What processes that were killed have left of new versions of a file; or those at work write just now."""
    return list(path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 16}.part"))


def reserve(descriptor: int, size: int) -> None:
    """Takes up the space of a file's first ``size`` bytes now, so that a lack of it is told before the work.

    Raises:
        OSError: there is not enough.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)


def umask() -> int:
    """The bits that new files don't get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def renamed_on_disk(folder: Path) -> Iterator[None]:
    """Has the names in a folder on disk when the block has changed them.

    Raises:
        OSError: that can't be done; where the folder can't be read, before the block.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
