from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fgunlearn as fg
from fgunlearn.ops.select import join_global, topk_select_ref
from fgunlearn.selection.strategies import apportion


def tensors() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator) for shape in [(30, 20), (50,), (), (0,), (3, 4, 5)]]


def flat(selection: fg.Selection) -> list[int]:
    return join_global(selection.indices, [math.prod(s) for s in selection.shapes]).tolist()


def test_topk_takes_the_largest_magnitudes_over_all_tensors() -> None:
    chosen = fg.topk(tensors(), k=40)
    expected, threshold = topk_select_ref(tensors(), 40)
    assert all(a.equal(b) for a, b in zip(chosen.indices, expected, strict=True))
    assert chosen.threshold == float(threshold)


@given(n=st.integers(0, 400), share=st.floats(0, 1))
def test_a_ratio_is_rounded_to_the_nearest_count(n: int, share: float) -> None:
    assert fg.topk([torch.ones(n)], ratio=share).k == round(share * n)


@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=6), share=st.floats(0, 1))
def test_tensor_scope_takes_the_share_of_each_and_exactly_k_in_all(sizes: list[int], share: float) -> None:
    n = sum(sizes)
    k = round(share * n)
    parts = apportion(k, sizes)
    assert sum(parts) == k
    assert all(
        0 <= part <= size and abs(part - k * size / max(n, 1)) < 1 for part, size in zip(parts, sizes, strict=True)
    )
    given_tensors = [torch.randn(size) for size in sizes]
    assert [i.numel() for i in fg.topk(given_tensors, k=k, scope="tensor").indices] == parts
    assert [i.numel() for i in fg.randomk(given_tensors, k=k, scope="tensor").indices] == parts


def test_randomk_is_a_function_of_seed_and_place_alone() -> None:
    one = fg.randomk(tensors(), k=100, seed=5)
    again = fg.randomk([torch.full_like(t, math.nan) for t in tensors()], k=100, seed=5)
    joined = fg.randomk([torch.zeros(sum(t.numel() for t in tensors()))], k=100, seed=5)
    assert one == again
    assert flat(one) == flat(joined)
    assert flat(one) != flat(fg.randomk(tensors(), k=100, seed=6))
    assert one.seed == 5


def test_tensor_scope_draws_other_places_in_tensors_of_one_shape() -> None:
    a, b = fg.randomk([torch.zeros(1000), torch.zeros(1000)], ratio=0.1, scope="tensor").indices
    assert not a.equal(b)


def named(scope: str = "global") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    parameters = {f"p{i}": t for i, t in enumerate(tensors())}
    return parameters, {name: t.abs() for name, t in parameters.items()}


@pytest.mark.parametrize("scope", ["global", "tensor"])
@given(share=st.floats(0, 1), ratio=st.floats(0, 1))
@settings(max_examples=40)
def test_random_topk_is_topk_of_its_share_and_random_for_the_rest(scope: Any, share: float, ratio: float) -> None:
    parameters, scores = named()
    chosen = fg.RandomTopK(ratio, top_share=share, scope=scope, seed=3).choose(parameters, scores)
    top = math.floor(share * chosen.k)
    assert chosen.k == round(ratio * chosen.numel)
    best = fg.TopK(k=top, scope=scope).choose(parameters, scores)
    assert (best - chosen).k == 0


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_random_topk_at_the_ends_is_random_k_and_topk(scope: Any) -> None:
    parameters, scores = named()
    assert fg.RandomTopK(0.3, top_share=1.0, scope=scope).choose(parameters, scores) == fg.TopK(
        0.3, scope=scope
    ).choose(parameters, scores)
    assert fg.RandomTopK(0.3, top_share=0.0, scope=scope, seed=4).choose(parameters, None) == fg.RandomK(
        0.3, seed=4, scope=scope
    ).choose(parameters, None)


def test_every_seeded_choice_is_the_same_on_any_number_of_threads(threads: Callable[[int], None]) -> None:
    big = {"a": torch.zeros(300_000), "b": torch.zeros(70_001)}
    answers = []
    for count in (1, 2, 8):
        threads(count)
        mixed = fg.RandomTopK(0.02, seed=1).choose(big, big)
        answers.append((fg.randomk(list(big.values()), ratio=0.02, seed=1), mixed))
    assert answers[0] == answers[1] == answers[2]


def test_empty_and_full_selections_work() -> None:
    assert fg.topk(tensors(), k=0).k == 0
    assert fg.topk(tensors(), ratio=1.0).ratio == 1.0
    assert fg.randomk(tensors(), k=0).k == 0
    assert fg.randomk(tensors(), ratio=1.0).ratio == 1.0
    assert fg.topk([], k=0).k == 0


def test_select_chooses_before_it_works(model: nn.Module) -> None:
    def never(*_: object) -> Tensor:
        raise AssertionError("scored although k is impossible")

    with pytest.raises(ValueError, match="k must be at most"):
        fg.select(model, [1], never, fg.TopK(k=10**9))


def test_a_selection_from_a_model_carries_its_names(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    chosen = fg.select(model, batches, None, fg.TopK(0.1))
    assert chosen.names == ("0.weight", "0.bias", "1.weight", "1.bias", "5.weight", "5.bias")


def test_tied_parameters_count_once() -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert fg.select(tied, [], None, fg.RandomK(k=0)).names == ("0.weight", "0.bias", "1.bias")


BAD_SIZES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"k": -1}, ValueError, "k must be >= 0, got -1"),
    ({"k": 1.5}, TypeError, "k must be an int, got 1.5"),
    ({"k": True}, TypeError, "k must be an int"),
    ({"ratio": -0.1}, ValueError, r"ratio must be in \[0, 1\], got -0.1"),
    ({"ratio": 1.01}, ValueError, r"ratio must be in \[0, 1\], got 1.01"),
    ({"ratio": math.nan}, ValueError, r"ratio must be in \[0, 1\], got nan"),
    ({"ratio": "1%"}, TypeError, "ratio must be a number"),
    ({}, ValueError, "exactly one of k and ratio"),
    ({"k": 1, "ratio": 0.1}, ValueError, "exactly one of k and ratio"),
]


@pytest.mark.parametrize(("size", "error", "words"), BAD_SIZES)
@pytest.mark.parametrize("make", [fg.TopK, fg.RandomK, fg.RandomTopK])
def test_strategies_refuse_bad_sizes(make: Any, size: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make(**size)


@pytest.mark.parametrize(("size", "error", "words"), [*BAD_SIZES, ({"k": 712}, ValueError, "at most .* 711, got 712")])
@pytest.mark.parametrize("choose", [fg.topk, fg.randomk])
def test_lists_refuse_bad_sizes(choose: Any, size: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        choose(tensors(), **size)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: fg.TopK(0.1, score="gradient"), ValueError, "score must be one of .*, got 'gradient'"),  # type: ignore[arg-type]
        (lambda: fg.TopK(0.1, scope="layer"), ValueError, "scope must be one of .*, got 'layer'"),  # type: ignore[arg-type]
        (lambda: fg.RandomK(0.1, seed=1.0), TypeError, "seed must be an int"),  # type: ignore[arg-type]
        (lambda: fg.RandomK(0.1, seed=2**63), ValueError, "64 bits"),
        (lambda: fg.RandomTopK(0.1, top_share=1.1), ValueError, "top_share must be in .*, got 1.1"),
        (lambda: fg.topk([torch.tensor([1, 2])], k=1), TypeError, "tensor '0' must be float32.*int64"),
        (lambda: fg.topk([torch.zeros(2, dtype=torch.complex64)], k=1), TypeError, "complex64"),
        (lambda: fg.topk([torch.zeros(2).to_sparse()], k=1), TypeError, "layout torch.sparse_coo"),
        (lambda: fg.topk([torch.zeros(2), torch.zeros(2, device="meta")], k=1), ValueError, "'1' is on meta"),
        (lambda: fg.topk([torch.zeros(2, device="meta")], k=1), ValueError, "CPU and CUDA, but tensor '0' is on meta"),
        (lambda: fg.topk(torch.zeros(2), k=1), TypeError, "list of tensors"),  # type: ignore[arg-type]
        (lambda: fg.topk([1.0], k=1), TypeError, "must be a tensor, got float"),  # type: ignore[list-item]
        (
            lambda: fg.topk([torch.zeros(2), torch.tensor([1, math.nan, math.nan])], k=1),
            ValueError,
            "tensor number 1 holds 2 NaN",
        ),
    ],
)
def test_bad_input_is_refused_by_name_and_value(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(("share", "ranked"), [(0.29, 29), (0.57, 57), (0.295, 29), (0.0, 0), (1.0, 100)])
def test_the_ranked_part_is_that_of_the_share_as_it_is_written(share: float, ranked: int) -> None:
    assert fg.RandomTopK(k=100, top_share=share).top_count(100) == ranked  # 0.29 * 100 is 28.999999999999996
