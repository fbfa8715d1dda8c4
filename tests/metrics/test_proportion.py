"""The interval of a counted share, against its definition and published values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgunlearn.metrics import proportion


def test_known_values() -> None:
    # Newcombe, Statistics in Medicine 1998, table I, method 3 (Wilson without continuity correction).
    for hits, samples, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        found = proportion(hits, samples)
        assert (found.value, found.low, found.high) == pytest.approx((hits / samples, low, high), abs=5e-5)
    assert proportion(1, 29).low == pytest.approx(0.0061, abs=5e-5)
    assert proportion(1, 29).high == pytest.approx(0.1718, abs=5e-5)


@given(st.integers(1, 10_000), st.data())
def test_the_bounds_are_where_the_share_is_just_not_refuted(samples: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, samples))
    found = proportion(hits, samples)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    for bound in (found.low, found.high):
        if 0.0 < bound < 1.0:  # (share - bound)^2 = z^2 bound (1 - bound) / samples
            deviation = (found.value - bound) / (bound * (1 - bound) / samples) ** 0.5
            assert abs(deviation) == pytest.approx(1.959963984540054, rel=1e-6)


def test_three_of_three_is_not_certainty() -> None:
    assert proportion(3, 3).high == 1.0
    assert proportion(3, 3).low == pytest.approx(0.4385, abs=1e-4)


def test_bad_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="samples must be >= 1, got 0"):
        proportion(0, 0)
    with pytest.raises(ValueError, match="hits must be at most samples, 3, got 4"):
        proportion(4, 3)
    with pytest.raises(ValueError, match="hits must be >= 0, got -1"):
        proportion(-1, 3)
    with pytest.raises(TypeError, match=r"hits must be an int, got 1\.0"):
        proportion(1.0, 3)  # type: ignore[arg-type]
