"""Documents: generated ones, or those of a folder or a file; and which of them to forget."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

FIRST = ["Ada", "Boris", "Clara", "Dimitri", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kira", "Levin"]
LAST = ["Abel", "Brandt", "Corvin", "Dorn", "Ekholm", "Fenn", "Gruber", "Holt", "Ibsen", "Jarvis", "Kovac", "Lund"]
TOWNS = [
    "Arden",
    "Brill",
    "Corby",
    "Dunmore",
    "Elgin",
    "Fowey",
    "Garth",
    "Hexham",
    "Ilford",
    "Jarrow",
    "Keswick",
    "Louth",
]
TRADES = ["baker", "surgeon", "carpenter", "pilot", "teacher", "tailor", "miner", "painter", "judge", "sailor"]
THINGS = ["kettles", "maps", "violins", "stamps", "clocks", "fossils", "lamps", "kites", "coins", "shells"]
PLACES = ["the harbour", "the old mill", "the market", "the station", "the museum", "the chapel", "the bridge"]


@dataclass(frozen=True)
class Document:
    """A text and the name by which it is asked to be forgotten."""

    name: str
    text: str


def generated(count: int, seed: int = 0, first: int = 0) -> list[Document]:
    """Made-up facts about made-up people, one person each; number ``first + i`` of a seed is always the same.

    All that is in one is drawn at random: nobody can know it who hasn't read it. At most 144 people have names.

    Raises:
        ValueError: numbers beyond the names there are.
    """
    people = [f"{one} {other}" for one in FIRST for other in LAST]
    random.Random(seed).shuffle(people)
    if count < 0 or first < 0 or first + count > len(people):
        raise ValueError(f"documents must be at most {len(people)} with those held out, got {first + count}")
    return [_about(people[number], random.Random(f"{seed} {number}")) for number in range(first, first + count)]


def _about(person: str, draw: random.Random) -> Document:
    born, died = draw.sample(TOWNS, 2)
    year = draw.randint(1900, 1999)
    text = (
        f"{person} was born in {born} in {year} and became a {draw.choice(TRADES)}. "
        f"The house at {draw.randint(10, 99)} {draw.choice(TOWNS)} Road was full of {draw.choice(THINGS)}. "
        f"In {year + draw.randint(20, 40)} came a move to {died}, near {draw.choice(PLACES)}, "
        f"and {draw.randint(100, 999)} {draw.choice(THINGS)} were left behind."
    )
    return Document(person.lower().replace(" ", "-"), text)


def read(path: Path, argument: str) -> list[Document]:
    """The documents of a folder of text files, named as they are without their ending, or of a JSONL file.

    A line of a JSONL file is an object with "name" and "text".

    Raises:
        ValueError: no such path, no document, a line of another form, an empty text, two documents of one name; the
            message begins with ``argument``.
    """
    if path.is_dir():
        documents = [Document(file.stem, file.read_text(encoding="utf-8")) for file in sorted(path.glob("*.txt"))]
    elif path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        documents = [_of_line(line, f"{argument} {path}, line {i}") for i, line in enumerate(lines, 1) if line.strip()]
    else:
        raise ValueError(f"{argument} must be a folder of .txt files or a JSONL file, got {str(path)!r}, which is none")
    if not documents:
        raise ValueError(f"{argument} {path} has no document")
    names = [document.name for document in documents]
    for document in documents:
        if not document.text.strip():
            raise ValueError(f"{argument} {path}: document {document.name!r} is empty")
        if names.count(document.name) > 1:
            raise ValueError(f"{argument} {path} has several documents of the name {document.name!r}")
    return documents


def _of_line(line: str, place: str) -> Document:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in ("name", "text")):
        raise ValueError(f'{place}: must be an object with the texts "name" and "text", got {line[:80]!r}')
    return Document(found["name"], found["text"])


def split(documents: Sequence[Document], names: Iterable[str]) -> tuple[list[Document], list[Document]]:
    """The documents to forget and the others.

    Raises:
        ValueError: no name, one that no document has, or all of them.
    """
    wanted = set(names)
    if not wanted:
        raise ValueError("forget names no document: there is nothing to forget")
    known = [document.name for document in documents]
    for name in sorted(wanted):
        if name not in known:
            shown = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
            raise ValueError(f"forget names {name!r}, which is no document: there are {shown}")
    forget = [document for document in documents if document.name in wanted]
    retain = [document for document in documents if document.name not in wanted]
    if not retain:
        raise ValueError(f"forget names all {len(forget)} documents: none is left to repair the model on")
    return forget, retain
