from __future__ import annotations

import pytest

from fgunlearn.planning.quantities import count, number, share_or_count


@pytest.mark.parametrize(
    ("text", "value"),
    [("8e9", 8 * 10**9), ("8B", 8 * 10**9), ("1.1b", 11 * 10**8), ("350M", 35 * 10**7), ("1T", 10**12), ("12", 12)],
)
def test_counts_are_read_as_people_write_them(text: str, value: int) -> None:
    assert count(text, "it") == value


@pytest.mark.parametrize("text", ["", "x", "8X", "B", "nan", "inf", "8e999", "1e3B7"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"^it must be a number like 8e9, 8B or 350M, got {text!r}$"):
        number(text, "it")


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "0.5"])
def test_what_counts_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"it must be a whole number of at least 1, got '{text}'"):
        count(text, "it")


@pytest.mark.parametrize(
    ("text", "k"), [("0.1%", 1000), ("100%", 10**6), ("0%", 0), ("0", 0), ("0.001", 1000), ("1", 1), ("1e6", 10**6)]
)
def test_a_share_is_of_all_and_a_number_is_itself(text: str, k: int) -> None:
    assert share_or_count(text, "k", 10**6) == k


@pytest.mark.parametrize("text", ["101%", "-1%"])
def test_shares_beyond_all_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"k must be between 0% and 100%, got '{text}'"):
        share_or_count(text, "k", 10)


@pytest.mark.parametrize("text", ["11", "-1", "1.5"])
def test_numbers_that_can_t_be_selected_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=rf"k must be a share like 0\.1% or a whole number up to 10, got '{text}'"):
        share_or_count(text, "k", 10)
