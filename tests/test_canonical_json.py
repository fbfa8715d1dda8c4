"""The one text of a document: RFC 8785, and what a strict reader refuses."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgunlearn.canonical_json import LARGEST, canonical, indented, number, parse, plain

# Doubles by their bits, and how ECMAScript writes them: the sample values of RFC 8785, appendix B.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-LARGEST, LARGEST)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(("bits", "text"), NUMBERS.items())
def test_numbers_are_written_as_in_the_standard(bits: str, text: str) -> None:
    assert number(struct.unpack(">d", bytes.fromhex(bits))[0]) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_back_as_the_same_double(value: float) -> None:
    assert float(number(value)) == value


def test_members_are_sorted_by_utf_16_and_strings_escaped_as_in_the_standard() -> None:
    names = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    assert canonical(names) == ('{"\\r":2,"1":4,"\u0080":6,"\u00f6":7,"\u20ac":1,"\U0001f600":5,"\ufb33":3}'.encode())
    assert canonical('\u20ac$\x0f\nA\'B"\\\\"/') == '"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'.encode()
    assert canonical([None, True, False, {}, [], (1.0, -0.0)]) == b"[null,true,false,{},[],[1,0]]"


@given(VALUES)
@settings(max_examples=150, deadline=None)
def test_reading_gives_the_value_back_and_the_text_is_the_same_again(value: Any) -> None:
    text = canonical(value)
    assert parse(text, "it") == value
    assert canonical(parse(text, "it")) == text
    assert canonical(parse(indented(value), "it")) == text
    assert json.loads(text, parse_int=float) == value  # as readers do that know doubles alone


def test_the_text_for_people_has_lines_and_the_same_numbers() -> None:
    assert indented({"b": [1e-7, {}], "a": 5e-4}).decode() == '{\n "a": 0.0005,\n "b": [\n  1e-7,\n  {}\n ]\n}\n'


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (math.nan, ValueError, "JSON has no nan"),
        ([math.inf], ValueError, "JSON has no inf"),
        (2**53, ValueError, r"9007199254740992 is beyond 2\*\*53 - 1"),
        ({1: 2}, TypeError, "name must be a string, got 1"),
        ({"a": object()}, TypeError, "JSON has no word for object"),
        ("\ud800", ValueError, "not Unicode"),
        ({"\udfff": 1}, ValueError, "not Unicode"),
    ],
)
def test_what_has_no_text_is_refused(value: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        canonical(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a":1,"a":2}', "a.json names 'a' twice in one object"),
        (b'{"b":[{"a":1,"a":1}]}', "a.json names 'a' twice in one object"),
        (b"[NaN]", "a.json holds NaN, which is no JSON"),
        (b"[-Infinity]", "a.json holds -Infinity, which is no JSON"),
        (b"[1e999]", "too large: 1e999"),
        (b"1" * 400, "too large: 111"),
        (b'{"a": 1', "a.json is not JSON"),
        (b"", "a.json is not JSON"),
        (b'"\xff"', "a.json is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_reads_differently_from_reader_to_reader_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text, "a.json")


def test_a_whole_number_that_no_double_holds_is_read_as_a_double() -> None:
    assert parse(b"100000000000000000001", "it") == 1e20
    assert canonical(parse(b"-9007199254740993", "it")) == b"-9007199254740992"


def test_plain_data_has_no_nan_no_tuple_and_no_seed_of_64_bits() -> None:
    found = plain({"a": (1.5, math.nan), "b": {"c": 2**63 - 1, "d": -(2**63), "e": True}})
    assert found == {"a": [1.5, None], "b": {"c": "9223372036854775807", "d": "-9223372036854775808", "e": True}}
