"""Checks of the paths that commands are given; errors name the option. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def check_file(path: Path, option: str) -> None:
    """That there is such a file.

    Raises:
        ValueError: there is none.
    """
    if not path.is_file():
        raise ValueError(f"{option}: there is no file {path}")


def check_folder_of(path: Path | None, option: str) -> None:
    """That a file can be put there.

    Raises:
        ValueError: its folder does not exist, or it is a folder itself.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise ValueError(f"{option}: there is no folder {path.parent}")
    if path.is_dir():
        raise ValueError(f"{option}: {path} is a folder")


def check_apart(path: Path | None, option: str, others: Mapping[str, Path | None]) -> None:
    """That what is written is none of the other files.

    Args:
        path: that is to be written; None for nothing.
        option: that names it.
        others: the other files by option.

    Raises:
        ValueError: it is the file of another option.
    """
    for other, given in others.items():
        if path is not None and given is not None and _same(path, given):
            raise ValueError(f"{option}: {path} is the file of {other}")


def _same(one: Path, other: Path) -> bool:
    """Whether both name one file: by the same path, through links, or as hard links."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))
