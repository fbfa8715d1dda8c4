"""Two SHA-256 at once: hashlib's answers, whatever the pieces are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgunlearn import _host
from fgunlearn.patch.hashing import HashlibPair, Sha256Pair, sha256_pair

needs_instructions = pytest.mark.skipif(
    not hasattr(_host, "Sha256Pair"), reason="this processor has no SHA instructions"
)
made_by = pytest.mark.parametrize(
    "make", [sha256_pair, HashlibPair, pytest.param(lambda: _host.Sha256Pair(), marks=needs_instructions)]
)
Make = Callable[[], Sha256Pair]


def expected(*streams: bytes) -> tuple[str, ...]:
    return tuple(hashlib.sha256(stream).hexdigest() for stream in streams)


@made_by
@given(pieces=st.lists(st.tuples(st.integers(0, 200), st.booleans()), max_size=12), seed=st.integers(0, 255))
def test_any_pieces_hash_as_hashlib_hashes_them_in_one(make: Make, pieces: list[tuple[int, bool]], seed: int) -> None:
    hashes, first, second = make(), b"", b""
    for number, (length, same) in enumerate(pieces):
        piece = bytes((seed + 31 * number + 7 * i) % 256 for i in range(length))
        other = piece if same else bytes(reversed(piece))
        hashes.update(piece, other)
        first, second = first + piece, second + other
    assert hashes.hexdigests() == expected(first, second)


@made_by
@pytest.mark.parametrize("length", [0, 1, 54, 55, 56, 63, 64, 65, 118, 119, 120, 127, 128, 129, 1000])
def test_every_form_of_padding(make: Make, length: int) -> None:
    one, other = bytes(range(250)) * 4, bytes(range(250, 0, -1)) * 4
    hashes = make()
    hashes.update(one[:length], other[:length])
    assert hashes.hexdigests() == expected(one[:length], other[:length])


@made_by
def test_the_examples_of_the_standard(make: Make) -> None:
    hashes = make()
    hashes.update(b"abc", b"abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hashes.hexdigests() == (abc, abc)


@made_by
def test_asking_does_not_end_it(make: Make) -> None:
    hashes = make()
    assert hashes.hexdigests() == expected(b"", b"")
    hashes.update(b"x", b"y")
    assert hashes.hexdigests() == hashes.hexdigests() == expected(b"x", b"y")
    hashes.update(b"z", b"z")
    assert hashes.hexdigests() == expected(b"xz", b"yz")


@made_by
def test_streams_of_different_lengths_are_refused(make: Make) -> None:
    hashes = make()
    with pytest.raises(ValueError, match="first has 2 bytes, second 1"):
        hashes.update(b"ab", b"a")
    assert hashes.hexdigests() == expected(b"", b"")
