from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fgunlearn.spdgan import samples
from fgunlearn.spdgan.samples import UnitRange, check_bounds, sampled, unit_range

NAN, INF = float("nan"), float("inf")


def numbered(n: int, size: int = 37) -> list[tuple[Tensor, Tensor]]:
    """Samples (i, -i) of class i, in batches."""
    i = torch.arange(n)
    x = torch.stack([i, -i], 1).float()
    return list(zip(x.split(size), i.split(size), strict=True))


def test_a_loader_that_fits_is_kept_whole_and_in_order() -> None:
    found = sampled(numbered(100), "loader", seed=0)
    assert found.y.equal(torch.arange(100))
    assert found.x[:, 0].equal(torch.arange(100).float())
    assert (found.low.tolist(), found.high.tolist()) == ([0.0, -99.0], [99.0, 0.0])


def test_of_a_larger_one_most_samples_are_kept_each_with_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST_SAMPLES", 50)
    found = sampled(numbered(400), "loader", seed=0)
    assert len(found.x) == len(found.y) == 50
    assert len(found.y.unique()) == 50
    assert found.x[:, 0].equal(found.y.float())
    assert (found.low.tolist(), found.high.tolist()) == ([0.0, -399.0], [399.0, 0.0])  # of all, not of those kept


def test_4096_samples_are_the_most() -> None:
    assert len(sampled(numbered(4100, 512), "loader", seed=0).x) == 4096


def test_every_sample_is_as_likely_to_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST_SAMPLES", 10)
    times, batches = 1500, numbered(40, 7)
    counts = torch.zeros(40)
    for seed in range(times):
        counts[sampled(batches, "loader", seed).y] += 1
    expected, spread = times / 4, math.sqrt(times * 0.25 * 0.75)
    assert float((counts - expected).abs().max()) < 4.5 * spread


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**40), size=st.integers(1, 120))
def test_which_are_kept_is_a_function_of_the_seed_and_the_order_not_of_the_batches(seed: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "MOST_SAMPLES", 20)
        assert sampled(numbered(120, size), "loader", seed).y.equal(sampled(numbered(120), "loader", seed).y)


def test_another_seed_keeps_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST_SAMPLES", 20)
    assert not sampled(numbered(120), "loader", 0).y.equal(sampled(numbered(120), "loader", 1).y)


def test_a_batch_is_let_go_before_the_next_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is copied: a sample that stays must not hold its whole batch in memory."""
    monkeypatch.setattr(samples, "MOST_SAMPLES", 20)
    store = torch.zeros(30, 2)

    def one_buffer_for_all() -> Iterator[tuple[Tensor, Tensor]]:
        for i in range(4):
            store.fill_(float(i))
            yield store, torch.full((30,), i)

    found = sampled(one_buffer_for_all(), "loader", 0)
    assert found.x[:, 0].equal(found.y.float())


def test_empty_batches_are_passed_over_and_labels_become_int64() -> None:
    empty = (torch.zeros(0, 2), torch.zeros(0, dtype=torch.uint8))
    found = sampled([empty, (torch.ones(3, 2), torch.arange(3, dtype=torch.uint8))], "loader", 0)
    assert found.y.equal(torch.arange(3))


def test_samples_keep_their_dtype_and_need_no_gradient() -> None:
    x = torch.ones(3, 2, dtype=torch.bfloat16, requires_grad=True)
    found = sampled([(x, torch.arange(3))], "loader", 0)
    assert found.x.dtype == torch.bfloat16
    assert not found.x.requires_grad
    assert found.low.dtype == torch.float32


LABELS = torch.zeros(3, dtype=torch.long)


@pytest.mark.parametrize(
    ("batches", "error", "words"),
    [
        ([], ValueError, "train_loader is empty"),
        ([(torch.zeros(0, 2), LABELS[:0])], ValueError, "train_loader is empty"),
        ([torch.zeros(3, 2)], TypeError, r"train_loader must give \(x, y\) batches of two tensors, got \(Tensor\)"),
        ([(torch.zeros(3, 2),)], TypeError, r"train_loader must give .*got \(Tensor\)"),
        ([(torch.zeros(3, 2), LABELS, LABELS)], TypeError, r"train_loader must give .*got \(Tensor, Tensor, Tensor\)"),
        ([({"x": torch.zeros(3, 2)}, LABELS)], TypeError, r"train_loader must give .*got \(dict, Tensor\)"),
        ([{"x": torch.zeros(3, 2)}], TypeError, r"train_loader must give .*got \(dict\)"),
        ([(torch.zeros(3, 2).long(), LABELS)], TypeError, r"train_loader: x must be floating-point, got torch\.int64"),
        ([(torch.zeros(3), LABELS)], ValueError, r"train_loader: x must be of shape .*got \(3,\)"),
        ([(torch.zeros(3, 2), LABELS[:2])], ValueError, r"train_loader: y must be of shape \(3,\).*got \(2,\)"),
        ([(torch.zeros(3, 2), LABELS[:, None])], ValueError, r"train_loader: y must be of shape \(3,\).*got \(3, 1\)"),
        (
            [(torch.zeros(3, 2), LABELS), (torch.zeros(3, 4), LABELS)],
            ValueError,
            r"train_loader: samples must have one shape, got \(2,\) and \(4,\)",
        ),
        *(
            ([(torch.tensor([[0.0, bad], [1.0, 1.0], [1.0, 1.0]]), LABELS)], ValueError, "train_loader: x holds NaN or")
            for bad in (NAN, INF, -INF)
        ),
    ],
)
def test_other_loaders_are_refused_by_name(batches: list[Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        sampled(batches, "train_loader", 0)


@settings(max_examples=50, deadline=None)
@given(
    low=st.floats(-1e4, 1e4, width=32),
    length=st.floats(0.125, 1e4, width=32),
    shares=st.lists(st.floats(0.0, 1.0, width=32), min_size=1, max_size=5),
)
def test_unit_range_goes_there_and_back_and_keeps_to_its_bounds(low: float, length: float, shares: list[float]) -> None:
    scope = UnitRange(torch.tensor([low]), torch.tensor([low]) + length)
    unit = torch.tensor(shares)[:, None]
    x = scope.from_unit(unit, torch.float32)
    assert bool(((x >= scope.low) & (x <= scope.high)).all())
    error = 4.0 * torch.finfo(torch.float32).eps * (abs(low) + length)
    assert float((scope.to_unit(x) - unit).abs().max()) * length <= error
    ends = torch.tensor([[0.0], [1.0]])
    assert scope.from_unit(ends, torch.float32).flatten().equal(torch.cat([scope.low, scope.high]))


@pytest.mark.parametrize("rest", [(), (5,), (5, 6)])
def test_unit_range_is_per_channel(rest: tuple[int, ...]) -> None:
    scope = UnitRange(torch.tensor([0.0, 10.0]), torch.tensor([1.0, 30.0]))
    x = torch.stack([torch.full(rest, 0.25), torch.full(rest, 15.0)])[None]
    assert scope.to_unit(x).equal(torch.full((1, 2, *rest), 0.25))
    assert scope.from_unit(scope.to_unit(x), torch.float64).equal(x.double())


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 1.7e9, -1e30])
def test_a_constant_channel_gets_a_range_all_the_same(value: float) -> None:
    same = torch.tensor([value])
    found = unit_range(same, same, None, None)
    assert found.low.equal(same)
    assert float(found.high - found.low) == pytest.approx(max(1.0, abs(value)))


def test_bounds_that_are_given_take_the_place_of_the_datas() -> None:
    low, high = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 4.0])
    found = unit_range(low, high, -1.0, None)
    assert (found.low.tolist(), found.high.tolist()) == ([-1.0, -1.0], [1.0, 4.0])
    found = unit_range(low, high, None, 9.0)
    assert (found.low.tolist(), found.high.tolist()) == ([0.0, 2.0], [9.0, 9.0])
    with pytest.raises(ValueError, match=r"lo must be below the data's largest value, 4\.0, got 5"):
        unit_range(low, high, 5.0, None)
    with pytest.raises(ValueError, match=r"hi must be above the data's smallest value, 0\.0, got -1"):
        unit_range(low, high, None, -1.0)


@pytest.mark.parametrize(
    ("lo", "hi", "words"),
    [
        (NAN, None, "lo must be finite, got nan"),
        (None, INF, "hi must be finite, got inf"),
        (1.0, 1.0, "lo must be less than hi, got lo=1.0 and hi=1.0"),
        (2.0, 1.0, "lo must be less than hi"),
    ],
)
def test_bounds_that_leave_no_range_are_refused(lo: float | None, hi: float | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_bounds(lo, hi)


@settings(max_examples=30, deadline=None)
@given(lo=st.none() | st.floats(-5.0, 0.0), hi=st.none() | st.floats(0.5, 5.0))
def test_bounds_in_order_pass(lo: float | None, hi: float | None) -> None:
    check_bounds(lo, hi)
