"""A deletion request in words: ``random:0.1``, ``class:3``, ``mislabel:0.1``, ``ids:FILE``."""

from __future__ import annotations

import difflib
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from fgunlearn.experiment import data, scenarios
from fgunlearn.experiment.scenarios import FORGET_SHARE, Scenario

KINDS = ("random", "class", "mislabel", "ids")


@dataclass(frozen=True)
class Request:
    """What is to be forgotten.

    Attributes:
        kind: "random", "class", "mislabel" or "ids".
        share: of the training samples; "random" and "mislabel".
        label: "class": which; None for one that the seed names.
        rows: "ids": rows of the data, ascending.
    """

    kind: str
    share: float = FORGET_SHARE
    label: int | None = None
    rows: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """For tables and files, no two requests share one: letters, digits, dots and hyphens."""
        if self.kind == "ids":
            digest = hashlib.sha256(repr(self.rows).encode()).hexdigest()
            return f"ids-{len(self.rows)}-{digest[:8]}"
        if self.kind == "class":
            return "class" if self.label is None else f"class-{self.label}"
        return f"{self.kind}-{self.share!r}"

    @property
    def title(self) -> str:
        """For a reader."""
        if self.kind == "ids":
            return f"forget {len(self.rows)} named samples"
        if self.kind == "class":
            return "forget one class" if self.label is None else f"forget class {self.label}"
        return f"forget {100 * self.share:g}%" + (" mislabelled" if self.kind == "mislabel" else " at random")

    def scenario(self, source: str, seed: int, limit: int | None = None) -> tuple[Scenario, int]:
        """The scenario on that data for that seed, and the number of classes.

        Raises:
            ValueError: a class or rows that the data does not have; nothing to forget, or nothing left.
        """
        rows = torch.tensor(self.rows, dtype=torch.int64)
        split = data.load(source, seed, limit, keep=rows if self.kind == "ids" else None)
        if self.kind == "ids":
            return scenarios.forgetting(split, rows), split.classes
        return scenarios.make(self.kind, split, seed, self.share, self.label), split.classes


def parse(spec: str) -> Request:
    """What a word says is to be forgotten.

    Args:
        spec: "random:SHARE" or "mislabel:SHARE", a tenth if no share is given; "class:NUMBER", or "class" for another
            one with every seed; "ids:FILE", a text file with a row number of the data per line, ``#`` begins a comment.

    Raises:
        ValueError: another word, a share outside (0, 1), a class that is no number, a file that is not there or names
            no row, a row twice, or something else.
    """
    kind, colon, rest = spec.partition(":")
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"a scenario must be random, class, mislabel or ids:FILE, got {spec!r}{meant}")
    if colon and not rest:
        raise ValueError(f"scenario {spec!r} ends with a colon: what comes after it?")
    if kind == "ids":
        if not rest:
            raise ValueError("scenario ids needs a file: ids:FILE")
        return Request(kind, rows=tuple(sorted(read_rows(Path(rest), f"scenario {spec!r}"))))
    if kind == "class":
        if rest and not rest.isdecimal():
            raise ValueError(f"scenario {spec!r}: the class must be a number, got {rest!r}")
        return Request(kind, label=int(rest) if rest else None)
    return Request(kind, share=_share(rest, spec) if rest else FORGET_SHARE)


def _share(text: str, spec: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0.0 < share < 1.0:
        raise ValueError(f"scenario {spec!r}: the share must be a number in (0, 1), got {text!r}")
    return share


def read_rows(path: Path, what: str) -> dict[int, int]:
    """The row numbers of a text file, one per line, in its order, and the line that each stands on.

    Args:
        path: of the file; ``#`` begins a comment.
        what: named in errors, such as an option.

    Raises:
        ValueError: no such file, a line that is no row number, a row named twice, or none.
    """
    if not path.is_file():
        raise ValueError(f"{what}: there is no file {path}")
    rows: dict[int, int] = {}
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{what}: {path} is no text file: {error}") from error
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        if not text.isdecimal() or int(text) >= 2**63:
            raise ValueError(f"{what}: line {number} of {path} must be a row number, got {text!r}")
        if int(text) in rows:
            raise ValueError(f"{what}: line {number} of {path} repeats row {int(text)}")
        rows[int(text)] = number
    if not rows:
        raise ValueError(f"{what}: {path} names no row")
    return rows
