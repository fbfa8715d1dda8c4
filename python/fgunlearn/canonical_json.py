"""JSON of which there is one text only: what a document's hash and signature are taken of. And a strict reader.

The text is that of RFC 8785 (JSON Canonicalization Scheme): no white space; members sorted by their names' UTF-16 code
units; strings escaped only where JSON must; numbers as ECMAScript writes a double, the fewest digits that read back as
the same one; UTF-8. NaN and infinity do not exist.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

LARGEST = 2**53 - 1
"""The largest whole number that every reader of JSON reads exactly."""


def canonical(value: object) -> bytes:
    """The one text of a value, in UTF-8.

    Args:
        value: None, booleans, numbers, strings, and lists, tuples and mappings of these.

    Raises:
        TypeError: something else, or a name that is no string.
        ValueError: NaN, an infinity, an int beyond 2**53 - 1, or a string that is not Unicode (a lone surrogate).
    """
    return _encoded(_text(value, None, ""))


def indented(value: object) -> bytes:
    """The same for people to read: spread over lines, members still sorted, numbers and strings as in the one text."""
    return _encoded(_text(value, " ", "\n") + "\n")


def parse(text: bytes, what: str) -> Any:
    """What a JSON text says.

    Args:
        text: in UTF-8.
        what: named in errors, such as a path.

    Raises:
        ValueError: it is no JSON; or JSON that reads differently from reader to reader: a member named twice, NaN, a
            number that no double holds; or nesting too deep.
    """

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ValueError(f"{what} names {name!r} twice in one object")
            found[name] = value
        return found

    def constant(name: str) -> None:
        raise ValueError(f"{what} holds {name}, which is no JSON")

    def real(digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            raise ValueError(f"{what} holds a number that is too large: {digits[:40]}")
        return value

    def whole(digits: str) -> float:
        return real(digits) if len(digits) > 17 or abs(int(digits)) > LARGEST else int(digits)

    try:
        return json.loads(
            text.decode("utf-8"),
            object_pairs_hook=members,
            parse_constant=constant,
            parse_float=real,
            parse_int=whole,
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is not UTF-8: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{what} is not JSON: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{what} is nested too deeply") from error


def plain(value: Any) -> Any:
    """The value with what JSON has no word for replaced.

    NaN and infinities become None, tuples lists, and ints beyond 2**53 - 1, as seeds may be, decimal strings.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST:
        return str(value)
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _text(value: object, indent: str | None, line: str) -> str:
    """JSON, on one line where ``indent`` is None; ``line`` ends the line before a nested value's closing bracket."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        if abs(value) > LARGEST:
            raise ValueError(f"the number {value} is beyond 2**53 - 1, which not every reader of JSON reads exactly")
        return int.__repr__(value)  # of enumerations, too
    if isinstance(value, float):
        return number(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"a member's name must be a string, got {name!r}")
        colon = ":" if indent is None else ": "
        inner = line + (indent or "")
        items = [
            _text(name, None, "") + colon + _text(value[name], indent, inner) for name in sorted(value, key=_utf_16)
        ]
        return _bracketed("{}", items, inner, line)
    if isinstance(value, (list, tuple)):
        inner = line + (indent or "")
        return _bracketed("[]", [_text(item, indent, inner) for item in value], inner, line)
    raise TypeError(f"JSON has no word for {type(value).__name__}: {value!r}")


def _bracketed(brackets: str, items: list[str], inner: str, line: str) -> str:
    return brackets[0] + inner + f",{inner}".join(items) + line + brackets[1] if items else brackets


def number(value: float) -> str:
    """A double as ECMAScript's ``Number.prototype.toString`` writes it.

    Raises:
        ValueError: NaN or an infinity.
    """
    if not math.isfinite(value):
        raise ValueError(f"JSON has no {value}")
    if value == 0.0:
        return "0"  # of either sign
    sign, digits, exponent = Decimal(float.__repr__(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits))
    point = len(text) + exponent  # where it stands, counted from the first digit
    if len(text) <= point <= 21:
        text += "0" * (point - len(text))
    elif 0 < point <= 21:
        text = f"{text[:point]}.{text[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{text}"
    else:
        fraction = f".{text[1:]}" if len(text) > 1 else ""
        text = f"{text[0]}{fraction}e{point - 1:+d}"
    return f"-{text}" if sign else text


def _utf_16(name: str) -> bytes:
    return name.encode("utf-16-be", "surrogatepass")


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"a string is not Unicode: {error}") from error
