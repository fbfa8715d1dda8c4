from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fgunlearn import ops
from fgunlearn.selection.ascending import counts_between
from fgunlearn.selection.passes import KeysChanged, k_largest, key_value, place_edges, place_histogram
from keys import KINDS
from listed_passes import Listed, on_ranks

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def agree(passes: Listed, k: int, **how: Any) -> None:
    n = sum(t.numel() for t in passes.tensors)
    indices, threshold = k_largest(passes, k, n, **how)
    expected, wanted = ops.topk_select(passes.tensors, k)
    assert all(a.equal(b) for a, b in zip(indices, expected, strict=True))
    assert [a.dtype for a in indices] == [b.dtype for b in expected]
    assert threshold == float(wanted)


@st.composite
def tensors(draw: st.DrawFn) -> list[Tensor]:
    # Few values, and many of them special: ties and plateaus are the rule, not the exception.
    values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.5, 2.0, 1e-40, 6e-8, math.inf, -3.0, 60000.0]) | st.floats(
        -4, 4, width=16
    )
    made = []
    for _ in range(draw(st.integers(0, 4))):
        dtype = draw(st.sampled_from(DTYPES))
        made.append(torch.tensor(draw(st.lists(values, max_size=30)), dtype=dtype))
    return made


@settings(max_examples=150, deadline=None)
@given(tensors(), st.data(), st.integers(1, 16), st.integers(0, 20))
def test_the_k_largest_are_those_of_topk_select(made: list[Tensor], data: Any, digit_bits: int, room: int) -> None:
    k = data.draw(st.integers(0, sum(t.numel() for t in made)))
    passes = Listed(made)
    agree(passes, k, room=room, digit_bits=digit_bits)
    assert passes.largest_collected <= room


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("room", [0, 100, 10**6])
def test_awkward_values_are_ranked_as_topk_select_ranks_them(kind: str, room: int) -> None:
    made = [KINDS[kind](20_000), KINDS[kind](3_001).bfloat16(), KINDS[kind](1)]
    for k in (0, 1, 200, 11_000, 23_002):
        agree(Listed(made), k, room=room)
    agree(Listed([*made, KINDS[kind](500).double()]), 777, room=room)


def test_spread_keys_take_two_passes_and_a_plateau_five() -> None:
    spread, plateau = Listed([KINDS["gaussian"](100_000)]), Listed([torch.zeros(100_000)])
    agree(spread, 1_000, room=5_000)
    assert spread.asked == ["histogram", "collect"]
    agree(plateau, 1_001, room=5_000)
    assert plateau.asked == ["histogram", "histogram", "ties", "ties", "emit"]


def test_a_plateau_that_is_taken_whole_needs_no_histogram_of_places() -> None:
    whole = Listed([torch.ones(5_000), torch.zeros(100)])
    agree(whole, 5_000, room=10)
    assert whole.asked == ["histogram", "histogram", "emit"]


def test_an_eleven_bit_digit_takes_three_histograms() -> None:
    passes = Listed([KINDS["gaussian"](100_000)])
    agree(passes, 1_000, room=0, digit_bits=11)
    assert passes.asked == ["histogram"] * 3 + ["emit"]


def parts_of(made: list[Tensor], ranks: int) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Every tensor dealt out: rank r has every ranks-th run of 7 elements of it, and their global places."""
    parts: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in range(ranks)]
    offset = 0
    for t in made:
        run = torch.arange(t.numel()) // 7 % ranks
        for rank, (held, places) in enumerate(parts):
            held.append(t[run == rank])
            places.append((run == rank).nonzero().flatten() + offset)
        offset += t.numel()
    return parts


@pytest.mark.parametrize("kind", ["gaussian", "17 values", "mostly zero", "all zero"])
@pytest.mark.parametrize("room", [0, 500])
def test_ranks_that_share_their_counts_find_the_answer_of_one_process(kind: str, room: int) -> None:
    # The last tensor is so short that not every rank has a part of it.
    made = [KINDS[kind](5_000), KINDS[kind](700).half(), KINDS[kind](3)]
    n, k = 5_703, 1_234
    parts = parts_of(made, 3)

    def work(rank: int, total: Any) -> object:
        held, places = parts[rank]
        passes = Listed(held, places=places)
        indices, threshold = k_largest(passes, k, n, room=room, digit_bits=11, total=total)
        return [places[t][i.long()] for t, i in enumerate(indices)], threshold, passes.asked

    answers: list[Any] = on_ranks(3, work)
    expected, threshold = ops.topk_select(made, k)
    offset = 0
    for t, index in enumerate(expected):
        found = torch.cat([answer[0][t] for answer in answers]).sort().values
        assert found.equal(index.long() + offset)
        offset += made[t].numel()
    assert all(answer[1] == float(threshold) for answer in answers)
    assert answers[0][2] == answers[1][2] == answers[2][2]


def test_a_nan_on_one_rank_is_refused_on_all() -> None:
    made = [torch.ones(10), torch.tensor([1.0, math.nan, math.nan])]
    found = on_ranks(2, lambda rank, total: k_largest(Listed([made[rank]]), 3, 13, room=5, total=total))
    assert [str(error) for error in found] == ["2 keys can't be ranked"] * 2


@pytest.mark.parametrize("k", [0, 1, 3])
def test_what_cannot_be_ranked_is_refused_whatever_k(k: int) -> None:
    with pytest.raises(ValueError, match="1 keys can't be ranked"):
        k_largest(Listed([torch.tensor([1.0, math.nan, 2.0])]), k, 3, room=5)


class Changing(Listed):
    """Other keys from the second, third... pass on."""

    def __init__(self, first: Tensor, later: Tensor, after: int) -> None:
        super().__init__([first])
        self._first, self._later, self._after = first, later, after

    def _turn(self) -> None:
        self.tensors = [self._first if len(self.asked) < self._after else self._later]

    def histogram(self, *how: int) -> Tensor:
        self._turn()
        return super().histogram(*how)

    def collect(self, *how: int) -> Any:
        self._turn()
        return super().collect(*how)

    def ties(self, *how: int) -> Tensor:
        self._turn()
        return super().ties(*how)

    def emit(self, *how: int) -> list[Tensor]:
        self._turn()
        return super().emit(*how)


@pytest.mark.parametrize("after", [1, 2, 3, 4])
@pytest.mark.parametrize("later", [3.0, 0.25])
def test_keys_that_change_from_pass_to_pass_are_found_out(after: int, later: float) -> None:
    for room in (0, 10):
        changing = Changing(torch.ones(70_000), torch.full((70_000,), later), after)
        with pytest.raises(KeysChanged, match="the keys changed from one pass to the next"):
            k_largest(changing, 101, 70_000, room=room)


def test_keys_that_change_inside_the_bracket_give_the_answer_of_the_last_pass() -> None:
    first, later = torch.linspace(1.0, 1.001, 1_000), torch.linspace(1.001, 1.0, 1_000)
    indices, _ = k_largest(Changing(first, later, 1), 10, 1_000, room=2_000)
    assert indices[0].equal(ops.topk_select([later], 10)[0][0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k": -1}, r"k must be in \[0, 3\], got -1"),
        ({"k": 4}, r"k must be in \[0, 3\], got 4"),
        ({"room": -1}, "room must be >= 0, got -1"),
        ({"digit_bits": 0}, r"digit_bits must be in \[1, 16\], got 0"),
        ({"digit_bits": 17}, r"digit_bits must be in \[1, 16\], got 17"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        k_largest(Listed([torch.ones(3)]), **{"k": 1, "places": 3, "room": 1, **arguments})


def test_counts_of_places_leave_out_those_beyond() -> None:
    places = torch.tensor([0, 7, 8, 9, 11, 12, 15, 16, 400])
    assert place_histogram(places, 8, 2, 2).tolist() == [3, 2, 2]


@given(st.sets(st.integers(0, 60)), st.integers(-20, 40), st.integers(0, 4), st.integers(1, 5))
def test_ascending_places_are_counted_by_a_search_as_any_are(held: set[int], low: int, shift: int, bins: int) -> None:
    places = torch.tensor(sorted(held), dtype=torch.int64)
    edges = place_edges(low, shift, bins, places.device)
    assert len(edges) == bins + 1
    for index in (places, places.int()):
        assert counts_between(index, edges).equal(place_histogram(places, low, shift, bins))


@pytest.mark.parametrize("value", [0.0, 1e-45, 1.5, 3e38, math.inf])
def test_a_key_stands_for_a_magnitude(value: float) -> None:
    number = torch.tensor([value])
    assert key_value(int(number.view(torch.int32)), False) == float(number)
    assert key_value(int(number.double().view(torch.int64)), True) == float(number)
