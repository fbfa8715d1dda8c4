from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgunlearn.metrics import Interval
from fgunlearn.metrics.bootstrap import interval, resampled_means


def test_the_means_scatter_as_a_mean_of_so_many_samples_does() -> None:
    values = torch.randn(200, 1, dtype=torch.float64) * 3.0 + 1.0
    means = resampled_means(values, 4000, seed=0)
    assert means.shape == (4000, 1)
    assert float(means.mean()) == pytest.approx(float(values.mean()), abs=0.02)
    assert float(means.std()) == pytest.approx(float(values.std(correction=0)) / math.sqrt(200), rel=0.05)


def test_19_of_20_intervals_hold_the_true_mean() -> None:
    hits = 0
    for seed in range(400):
        generator = torch.Generator().manual_seed(seed)
        values = (torch.rand(60, 1, generator=generator) < 0.3).double()
        found = interval(float(values.mean()), resampled_means(values, 400, seed)[:, 0])
        hits += found.low <= 0.3 <= found.high
    assert 0.91 < hits / 400 < 0.98


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 50), resamples=st.integers(1, 600), seed=st.integers(0, 2**40))
def test_means_are_a_function_of_the_seed_and_stay_within_the_values(n: int, resamples: int, seed: int) -> None:
    values = torch.randn(n, 2, generator=torch.Generator().manual_seed(n))
    means = resampled_means(values, resamples, seed)
    assert means.equal(resampled_means(values, resamples, seed))
    assert bool((means <= values.double().amax(0) + 1e-12).all())
    assert bool((means >= values.double().amin(0) - 1e-12).all())


def test_another_seed_draws_other_samples() -> None:
    values = torch.randn(30, 1)
    assert not resampled_means(values, 5, 0).equal(resampled_means(values, 5, 1))


def test_the_columns_are_drawn_together() -> None:
    values = torch.randn(30, 1, dtype=torch.float64)
    means = resampled_means(torch.cat([values, 2.0 * values + 1.0], 1), 50, seed=0)
    torch.testing.assert_close(means[:, 1], 2.0 * means[:, 0] + 1.0)


def test_more_samples_than_are_drawn_at_a_time_are_drawn_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(40, 2)
    at_once = resampled_means(values, 30, seed=3)
    monkeypatch.setattr("fgunlearn.metrics.bootstrap._AT_ONCE", 1)
    torch.testing.assert_close(resampled_means(values, 30, seed=3), at_once)


def test_an_interval_leaves_out_a_fortieth_on_either_side() -> None:
    found = interval(0.4, torch.arange(0.0, 1001.0))
    assert found.value == 0.4
    assert found.low == pytest.approx(25.0)
    assert found.high == pytest.approx(975.0)


@pytest.mark.parametrize(
    ("low", "high", "excludes"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False)]
)
def test_an_interval_says_whether_it_lies_on_one_side_of_0(low: float, high: float, excludes: bool) -> None:
    assert Interval(0.05, low, high).excludes_zero is excludes
