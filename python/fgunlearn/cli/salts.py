"""The salt of a record's sample hashes: where it is, and a new one where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fgunlearn.audit import new_salt, read_salt, write_salt


def salt_path(audit: Path, given: Path | None) -> Path:
    """The file that is given, or the one beside the record."""
    return audit.with_name(f"{audit.name}.salt") if given is None else given


@dataclass(frozen=True)
class Salt:
    """A salt, or None for plain hashes.

    Attributes:
        value: 32 bytes.
        path: of its file.
        made: whether it was made now, and the file is still to be written.
    """

    value: bytes | None
    path: Path
    made: bool

    @classmethod
    def of(cls, audit: Path, given: Path | None, plain: bool) -> Salt:
        """The salt for a record at ``audit``.

        Raises:
            ValueError: both a file and plain hashes are wanted; a file that holds no salt; no folder for one.
        """
        if given is not None and plain:
            raise ValueError("--salt and --plain-hashes exclude each other")
        path = salt_path(audit, given)
        if plain:
            return cls(None, path, False)
        if path.exists():
            return cls(read_salt(path, "--salt"), path, False)
        if not path.parent.is_dir():
            raise ValueError(f"--salt: there is no folder {path.parent}")
        return cls(new_salt(), path, True)

    def keep(self) -> None:
        """Writes the file of a new one.

        Raises:
            OSError: it can't be written, or is there by now.
        """
        if self.made and self.value is not None:
            write_salt(self.path, self.value)
