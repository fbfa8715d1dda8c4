"""The journal of a change in place: a copy of the patch beside the checkpoint, from before the first byte changes.

It holds the values before and after, so that whatever part of the change was made can be taken back. It is written
whole or not at all, and removed when the change is on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fgunlearn.checkpoint_files import INDEX, CheckpointFiles, weight_map

_APPLYING, _REVERTING = ".applying", ".reverting"


def journal_of(path: Path, back: bool) -> Path:
    """Where the journal of a checkpoint lies; its name says which way the change goes."""
    return path.with_name(f".{path.name}{_REVERTING if back else _APPLYING}")


def unfinished(path: Path) -> Iterator[tuple[Path, bool]]:
    """The journals beside a checkpoint, and whether they are of a revert."""
    for back in (False, True):
        journal = journal_of(path, back)
        if journal.exists() or journal.is_symlink():
            yield journal, back


def refuse_unfinished(checkpoint: CheckpointFiles, but: Path | None = None) -> None:
    """That no change of the checkpoint, or of one of its files by another name, was interrupted.

    Args:
        checkpoint: that is to be read.
        but: a name whose journals are known.

    Raises:
        ValueError: one was: the checkpoint is neither what it was nor what it was to be.
    """
    paths = [checkpoint.path, *(file.path for file in checkpoint.files)]
    known = None if but is None else but.resolve()
    for path in dict.fromkeys([*paths, *(path.resolve() for path in paths)]):
        if path.resolve() != known:
            refuse_journals(path)
    for file in checkpoint.files:
        for index in file.path.parent.glob(f"*{INDEX}"):
            if (
                index.resolve() != known
                and any(unfinished(index))
                and file.path.name in set(weight_map(index).values())
            ):
                refuse_journals(index)


def refuse_journals(path: Path) -> None:
    """That no change of a file, or of a checkpoint by its index, was interrupted.

    Raises:
        ValueError: one was.
    """
    for journal, _ in unfinished(path):
        raise ValueError(
            f"a change of {path} is going on or was interrupted, {journal.name} says: if nothing is at work "
            "on it, bring it back with fgunlearn patch recover"
        )
