"""Applying and reverting a patch into new files: what was there before stays as it is."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from fgunlearn.checkpoint_files import CheckpointFiles, WeightsFile, mapped, read_checkpoint
from fgunlearn.files import beside, naming, renamed_on_disk, replacing, reserve, umask
from fgunlearn.patch.creating import check_target
from fgunlearn.patch.exchange import Direction, Pair, match, walk_all, written_whole
from fgunlearn.patch.format import Patch, read_patch
from fgunlearn.patch.in_place import change_in_place
from fgunlearn.patch.journal import refuse_journals
from fgunlearn.patch.locks import alone, reading


def apply(
    base: str | os.PathLike[str],
    patch_file: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    in_place: bool = False,
) -> Patch:
    """Makes of a checkpoint what a patch says.

    The checkpoint is held against the patch's hashes, and so is what comes out, before anything takes its place. The
    header, and whatever metadata it has, stays as it is.

    Args:
        base: the checkpoint: a safetensors file, or the index of a sharded one (``*.safetensors.index.json``).
        patch_file: the patch.
        out: where to write the result: a file, which is replaced if it is there; for a sharded checkpoint a folder,
            which must not be there or be empty, for the index and the files that it names. Not with ``in_place``.
        in_place: change ``base`` itself. A crash in the middle leaves a journal beside it, by which the next call with
            ``in_place``, or :func:`recover`, brings the checkpoint back; until then it is of no use.

    Returns:
        The patch, as :func:`inspect` returns it.

    Raises:
        ValueError: not the patch's base (the tensor is named); a patch or a checkpoint that is damaged; ``out`` that
            can't be replaced. ``base`` and ``out`` are then as they were.
        OSError: a file can't be read or written, such as for lack of space. Likewise.
    """
    return _run(base, "base", patch_file, out, in_place, back=False)


def revert(
    result: str | os.PathLike[str],
    patch_file: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    in_place: bool = False,
) -> Patch:
    """Takes back what :func:`apply` did: of its result this makes the file that there was, byte for byte.

    Arguments, return and errors are those of :func:`apply`, with the patch's result in the place of its base.
    """
    return _run(result, "result", patch_file, out, in_place, back=True)


def _run(
    source: str | os.PathLike[str],
    argument: str,
    patch_file: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    in_place: bool,
    *,
    back: bool,
) -> Patch:
    if in_place == (out is not None):
        raise ValueError(f"give out, or in_place=True to change {argument} itself, and not both")
    patch = read_patch(patch_file)
    direction = Direction(patch, back)
    if in_place:
        change_in_place(Path(source), argument, direction)
        return patch
    assert out is not None
    checkpoint = read_checkpoint(source)
    with reading(checkpoint):
        _write_anew(checkpoint, Path(out), direction)
    return patch


def _write_anew(checkpoint: CheckpointFiles, target: Path, direction: Direction) -> None:
    """Writes what becomes of a checkpoint to a new place."""
    patch = direction.patch
    if checkpoint.sharded:
        _check_folder(target)
        matched = match(checkpoint, patch)
        with _new_folder(target) as folder:
            for file, pairs in matched:
                _write(file, pairs, folder / file.path.name, direction)
            with renamed_on_disk(folder), (folder / checkpoint.path.name).open("wb") as index:
                index.write(checkpoint.path.read_bytes())
                index.flush()
                os.fsync(index.fileno())
        return
    check_target(target, "out", checkpoint)
    if target.exists() and target.samefile(patch.path):
        raise ValueError(f"out: {target} is {patch.path}, which is read")
    ((file, pairs),) = match(checkpoint, patch)
    with contextlib.ExitStack() as held:
        if target.exists() and not target.is_symlink():  # nobody is to change in place what is replaced meanwhile
            held.enter_context(alone(target, "out"))
            refuse_journals(target)
        temporary = held.enter_context(replacing(target, mode=file.path.stat().st_mode & 0o666))
        _write(file, pairs, temporary, direction)


def _write(file: WeightsFile, pairs: list[Pair], target: Path, direction: Direction) -> None:
    """Writes what becomes of one file of a checkpoint, down to the disk."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT, file.path.stat().st_mode & 0o666)
    try:
        reserve(descriptor, file.size)

        def write(data: memoryview, offset: int) -> None:
            written_whole(descriptor, data, offset)

        with mapped(file.path, file.size) as source:
            write(source[: file.data], 0)
        walk_all(file, pairs, direction, write)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_folder(path: Path) -> None:
    """That a folder can be made here.

    Raises:
        ValueError: there is something already, or nothing to put it in.
    """
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise ValueError(f"out: {path} is there already; a sharded checkpoint is written to a new folder")
    if not path.parent.is_dir():
        raise ValueError(f"out: there is no folder {path.parent}")


@contextlib.contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder, which takes ``path``'s place when the block ends well, and is gone when it doesn't."""
    temporary = beside(path)
    try:
        with naming(path):
            temporary.mkdir(0o700)
            yield temporary
            temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o777 & ~umask())
            with renamed_on_disk(path.parent):
                temporary.rename(path)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)
