"""SHA-256 of a tensor before and after a patch, side by side."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

from fgunlearn import _host

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Sha256Pair(Protocol):
    """SHA-256 of two streams of the same length that come in pieces. For one thread at a time."""

    def update(self, first: Buffer, second: Buffer) -> None:
        """The next bytes of both. Giving one object twice, as long as they are the same, costs one hash, not two.

        Raises:
            ValueError: they are not of one length.
        """

    def hexdigests(self) -> tuple[str, str]:
        """Of what came so far."""


def sha256_pair() -> Sha256Pair:
    """What computes it fastest here: both at once by the processor's SHA instructions, or hashlib twice."""
    return _host.Sha256Pair() if hasattr(_host, "Sha256Pair") else HashlibPair()


class HashlibPair:
    """:class:`Sha256Pair` by hashlib."""

    def __init__(self) -> None:
        self._first = hashlib.sha256()
        self._second: hashlib._Hash | None = None  # None as long as it is the first

    def update(self, first: Buffer, second: Buffer) -> None:
        """See :class:`Sha256Pair`."""
        sizes = memoryview(first).nbytes, memoryview(second).nbytes
        if sizes[0] != sizes[1]:
            raise ValueError(f"first has {sizes[0]} bytes, second {sizes[1]}")
        if self._second is None and first is not second:
            self._second = self._first.copy()
        self._first.update(first)
        if self._second is not None:
            self._second.update(second)

    def hexdigests(self) -> tuple[str, str]:
        """See :class:`Sha256Pair`."""
        first = self._first.hexdigest()
        return first, first if self._second is None else self._second.hexdigest()
