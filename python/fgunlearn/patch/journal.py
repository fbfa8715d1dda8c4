"""The journal of a change in place: a copy of the patch beside the checkpoint, from before the first byte changes.

It holds the values before and after, so that whatever part of the change was made can be taken back. It is written
whole or not at all, and removed when the change is on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fgunlearn.checkpoint_files import CheckpointFiles

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


def refuse_unfinished(checkpoint: CheckpointFiles) -> None:
    """That no change of the checkpoint was interrupted.

    Raises:
        ValueError: one was: the checkpoint is neither what it was nor what it was to be.
    """
    paths = [checkpoint.path, *(file.path for file in checkpoint.files)]
    for path in dict.fromkeys([*paths, *(path.resolve() for path in paths)]):
        _refuse(path)


def _refuse(path: Path) -> None:
    for journal, _ in unfinished(path):
        raise ValueError(
            f"a change of {path} is going on or was interrupted, {journal.name} says: if nothing is at work "
            "on it, bring it back with fgunlearn patch recover"
        )
