"""The audit record as data, and as a document with its own hash."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgunlearn.audit.form import check_form
from fgunlearn.audit.statement import statement
from fgunlearn.canonical_json import canonical, indented, parse, plain
from fgunlearn.files import replacing

FORMAT = "fgunlearn-audit"
VERSION = 1


def now() -> str:
    """Date and time in UTC, to the second, as ISO 8601 and RFC 3339 write it."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def inside(value: object, *names: str) -> Any:
    """The value of nested objects by its names; None where one is missing, or no object."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """What was forgotten, by what change, with which effect: plain data, no sample among it. docs/audit.md explains.

    The document is a JSON object of these fields, of "format" and "version", and of two that its hash leaves out:
    "sha256", the hash itself, and "signature". Equal records have equal documents. :mod:`fgunlearn.audit.form` refuses
    other ones.

    Attributes:
        kind: "unlearn", or "patch" for a change that is known by a forget patch.
        created: when, UTC.
        base: fingerprint of the checkpoint before, see :func:`fgunlearn.audit.fingerprint`.
        result: of the one after.
        data: what :func:`fgunlearn.audit.data_of` says of the samples; None where nothing is known of them.
        method: "name" and "options" of what was run.
        selection: strategy, k, numel, ratio, threshold, seed, the hash of the indices, and the share per tensor; None
            for a method without.
        perturbation: its kind and options; None for none.
        repair: its options, steps and losses; None for none.
        changed: per tensor the number of values that changed, of those with any, and the buffers that did.
        patch: hash and metadata of a forget patch; None without.
        seeds: of everything random.
        versions: of fgunlearn, torch and Python.
        machine: what it ran on.
        metrics: figures of base and result; None where none were measured.
        relearning: how fast the forgotten comes back; None where it was not measured.
        seconds: wall-clock time per phase.
        statement: what this proves, and what it does not.
        sha256: the hash that the document states; that of the content for a record just made.
        signature: by :func:`fgunlearn.audit.sign`; None without.
    """

    kind: str
    created: str = field(default_factory=now)
    base: dict[str, Any]
    result: dict[str, Any]
    data: dict[str, Any] | None = None
    method: dict[str, Any] | None = None
    selection: dict[str, Any] | None = None
    perturbation: dict[str, Any] | None = None
    repair: dict[str, Any] | None = None
    changed: dict[str, Any] | None = None
    patch: dict[str, Any] | None = None
    seeds: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] | None = None
    relearning: dict[str, Any] | None = None
    seconds: dict[str, Any] = field(default_factory=dict)
    statement: dict[str, Any] = field(default_factory=statement)
    sha256: str = ""
    signature: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            object.__setattr__(self, each.name, plain(getattr(self, each.name)))
        check_form({each.name: getattr(self, each.name) for each in dataclasses.fields(self)})
        if not self.sha256:
            object.__setattr__(self, "sha256", self.digest)

    @property
    def content(self) -> dict[str, Any]:
        """The document without its hash and signature."""
        fields = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        del fields["sha256"], fields["signature"]
        return {"format": FORMAT, "version": VERSION, **fields}

    def canonical(self) -> bytes:
        """The bytes that are hashed and signed: the content as RFC 8785 writes it."""
        return canonical(self.content)

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of :meth:`canonical`, computed now."""
        return hashlib.sha256(self.canonical()).hexdigest()

    @property
    def intact(self) -> bool:
        """Whether the stated hash is the content's."""
        return self.sha256 == self.digest

    def text(self) -> bytes:
        """The document, for a file: JSON with white space, hash and signature."""
        return indented({**self.content, "sha256": self.sha256, "signature": self.signature})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the document, replacing the file at once.

        Raises:
            OSError: it can't be written.
        """
        with replacing(path) as temporary:
            temporary.write_bytes(self.text())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AuditRecord:
        """Reads a document. Whether its hash is right is for :attr:`intact` to say.

        Raises:
            OSError: it can't be read.
            ValueError: it is no record, is damaged, or of a newer version.
        """
        return cls.from_text(Path(path).read_bytes(), str(path))

    @classmethod
    def from_text(cls, text: bytes, what: str = "the record") -> AuditRecord:
        """The record of a document's text; ``what`` is named in errors, such as a path.

        Raises:
            ValueError: as :meth:`load`.
        """
        found = parse(text, what)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f'{what} is not an audit record: it has no "format": "{FORMAT}"')
        version = found.get("version")
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise ValueError(f"{what}: version must be a whole number from 1 on, got {version!r}")
        if version > VERSION:
            raise ValueError(f"{what} has version {version}; this fgunlearn reads audit records up to {VERSION}")
        names = {each.name for each in dataclasses.fields(cls)}
        given = found.keys() - {"format", "version"}
        for name in sorted(names - given):
            raise ValueError(f"{what} has no field {name!r}")
        for name in sorted(given - names):
            raise ValueError(f"{what} has the unknown field {name!r}")
        try:
            record = cls(**{name: found[name] for name in names})
            record.canonical()
        except (TypeError, ValueError) as error:
            raise ValueError(f"{what}: {error}") from error
        except RecursionError as error:
            raise ValueError(f"{what} is nested too deeply") from error
        if not found["sha256"]:
            raise ValueError(f"{what}: sha256 must be 64 hexadecimal digits, got {found['sha256']!r}")
        return record
