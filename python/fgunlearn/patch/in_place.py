"""Changing a checkpoint where it lies: only the pages with changed values are written.

First everything is checked, read only: the checkpoint is what the patch starts from and would become what it says. Then
the journal is written, then the values, then the journal is removed. Whoever finds a journal takes the change back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import mmap
import os
import shutil
from pathlib import Path

from fgunlearn.checkpoint_files import CheckpointFiles, let_go, mapped, pieces, read_checkpoint
from fgunlearn.files import begun_beside, naming, renamed_on_disk, replacing, reserve
from fgunlearn.patch.exchange import Direction, Pair, match, walk_all
from fgunlearn.patch.format import read_patch
from fgunlearn.patch.journal import journal_of, refuse_unfinished, unfinished
from fgunlearn.patch.locks import alone
from fgunlearn.patch.threads import Stop, for_each


def change_in_place(path: Path, argument: str, direction: Direction) -> None:
    """Makes of a checkpoint what a patch says, where it lies; see :func:`fgunlearn.patch.apply`.

    Raises:
        ValueError, OSError: see there.
    """
    with alone(path, argument):
        _take_back(path)
        checkpoint = read_checkpoint(path)
        refuse_unfinished(checkpoint)
        _fill_holes(checkpoint, direction)  # before anything is read: on a tmpfs reading one takes space, too
        _check(checkpoint, direction)
        try:
            # The copy is what is used from here on: whatever becomes of the file that was given.
            _put(checkpoint, _journalled(path, direction))
            _remove(journal_of(path, direction.back))
        except BaseException:
            _take_back(path)
            raise


def _journalled(path: Path, direction: Direction) -> Direction:
    """Writes the journal of a change; the same change, by the journal."""
    journal = journal_of(path, direction.back)
    # It holds weights, as the checkpoint does: who must not read that must not read this.
    with replacing(journal, mode=path.stat().st_mode & 0o666) as temporary:
        shutil.copyfile(direction.patch.path, temporary)
        if read_patch(temporary).sha256 != direction.patch.sha256:
            raise ValueError(f"{direction.patch.path} has changed while it was read")
    return Direction(dataclasses.replace(direction.patch, path=journal), direction.back)


def recover(path: str | os.PathLike[str]) -> bool:
    """Takes back a change in place that was interrupted, if there was one.

    Args:
        path: the checkpoint: a safetensors file, or the index of a sharded one.

    Returns:
        Whether there was one. The checkpoint is then what it was before that change.

    Raises:
        ValueError: the checkpoint does not become what it was; something else must have changed it. The journal stays.
        OSError: a file can't be read or written.
    """
    path = Path(path)
    with alone(path, "checkpoint"):
        refuse_unfinished(read_checkpoint(path), but=path)
        return _take_back(path)


def _take_back(path: Path) -> bool:
    for back in (False, True):  # journals that were not written to their end: nothing was changed yet
        for begun in begun_beside(journal_of(path, back)):
            begun.unlink()
    found = False
    for journal, back in list(unfinished(path)):
        if journal.is_symlink():
            raise ValueError(f"{journal} is a symbolic link, no journal")
        found = True
        checkpoint = read_checkpoint(path)
        undo = Direction(read_patch(journal), not back)
        # Some values may be the new ones and some the old ones: all are put back, whatever is there.
        _check_end(checkpoint, undo)
        _put(checkpoint, undo)
        _remove(journal)
    return found


def _check(checkpoint: CheckpointFiles, direction: Direction) -> None:
    """That the checkpoint is what the patch starts from, and would become what it ends with; nothing is written."""
    for file, pairs in match(checkpoint, direction.patch):
        walk_all(file, pairs, direction)


def _check_end(checkpoint: CheckpointFiles, undo: Direction) -> None:
    """That putting all values back makes the checkpoint what it was before its journal's change; nothing is written."""
    journal = undo.patch.path
    for file, pairs in match(checkpoint, undo.patch):
        with mapped(file.path, file.size) as held, undo.patch.mapped() as patch:

            def one(pair: Pair, stop: Stop, held: memoryview = held, patch: memoryview = patch) -> None:
                tensor, change = pair
                exchange = undo.exchange(patch, change) if change.changed else None
                digest = hashlib.sha256()
                for begin, end in pieces(tensor.begin, tensor.end, tensor.width):
                    stop.check()
                    if exchange is not None and exchange.next_changes((end - begin) // tensor.width):
                        piece = bytearray(held[begin:end])
                        exchange.put(piece, check=False)
                        digest.update(piece)
                    else:
                        digest.update(held[begin:end])
                    let_go(held, begin, end)
                if digest.hexdigest() != undo.ends(change)[1]:
                    raise ValueError(
                        f"tensor {tensor.name!r} of {checkpoint.path} can't be brought back to what it was before the "
                        f"change that {journal.name} says: something else has changed it. Nothing was written. If the "
                        f"checkpoint is right as it is, remove {journal}"
                    )

            for_each(pairs, one)


def _fill_holes(checkpoint: CheckpointFiles, direction: Direction) -> None:
    """Has space for all that is to be written: a lack of it, met through a map, would end the process.

    Raises:
        OSError: there is not enough.
    """
    for file, pairs in match(checkpoint, direction.patch):
        about = file.path.stat()
        if any(change.changed for _, change in pairs) and about.st_blocks * 512 < about.st_size:
            with naming(file.path), file.path.open("r+b") as opened:
                reserve(opened.fileno(), file.size)


def _put(checkpoint: CheckpointFiles, direction: Direction) -> None:
    """Writes the values, whatever is there now, down to the disk."""
    for file, pairs in match(checkpoint, direction.patch):
        changed = [pair for pair in pairs if pair[1].changed]
        if not changed:
            continue
        with file.path.open("r+b") as opened, direction.patch.mapped() as patch:
            if os.fstat(opened.fileno()).st_size != file.size:
                raise ValueError(f"{file.path} has changed while it was read")
            view = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_WRITE))
            for tensor, change in changed:
                exchange = direction.exchange(patch, change)
                for begin, end in pieces(tensor.begin, tensor.end, tensor.width):
                    if exchange.next_changes((end - begin) // tensor.width):
                        exchange.put(view[begin:end], check=False)
                        let_go(view, begin, end)
            os.fsync(opened.fileno())  # what was written through the map included


def _remove(journal: Path) -> None:
    with renamed_on_disk(journal.parent):
        journal.unlink()
