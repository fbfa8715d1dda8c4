from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fgunlearn.metrics import losses_auc, roc
from fgunlearn.metrics.roc_curve import roc_intervals

scores = st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.1, 3.0, math.inf]), min_size=1, max_size=15).map(torch.tensor)


@given(members=scores, others=scores, max_fpr=st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]))
def test_auc_and_hit_rate_are_their_definitions(members: Tensor, others: Tensor, max_fpr: float) -> None:
    pairs = [(a > b) + 0.5 * (a == b) for a in members.tolist() for b in others.tolist()]
    rates = [0.0]
    for threshold in torch.cat([members, others]).tolist():
        if float((others >= threshold).double().mean()) <= max_fpr:
            rates.append(float((members >= threshold).double().mean()))
    area, rate = roc(members, others, max_fpr)
    assert area == pytest.approx(sum(pairs) / len(pairs))
    assert area == pytest.approx(losses_auc(-members, -others))
    assert rate == pytest.approx(max(rates))


def test_it_agrees_with_scikit_learn() -> None:
    sk = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    members, others = (torch.randn(700) + 0.6).round(decimals=1), torch.randn(500).round(decimals=1)
    truth, both = [1] * 700 + [0] * 500, torch.cat([members, others]).tolist()
    fpr, tpr, _ = sk.roc_curve(truth, both, drop_intermediate=False)
    for max_fpr in (0.01, 0.05, 0.3):
        area, rate = roc(members, others, max_fpr)
        assert area == pytest.approx(sk.roc_auc_score(truth, both))
        assert rate == pytest.approx(tpr[fpr <= max_fpr].max())


def test_a_share_that_is_a_whole_number_of_others_is_not_lost_to_rounding() -> None:
    # 0.29 * 100 is 28.999999999999996.
    others = torch.arange(100.0)
    assert roc(torch.tensor([71.0]), others, 0.29)[1] == 1.0
    assert roc(torch.tensor([70.0]), others, 0.29)[1] == 0.0


def test_below_a_hundred_others_no_false_alarm_is_allowed() -> None:
    members = torch.tensor([0.5, 1.5])
    assert roc(members, torch.tensor([1.0, *[0.0] * 98]))[1] == 0.5
    assert roc(members, torch.tensor([1.0, *[0.0] * 99]))[1] == 1.0


def test_scores_that_tell_all_from_none_have_no_spread() -> None:
    [(area, rate)] = roc_intervals([torch.arange(10.0, 20.0)], [torch.arange(10.0)], resamples=50, seed=0)
    assert (area.value, area.low, area.high) == (1.0, 1.0, 1.0)
    assert (rate.value, rate.low, rate.high) == (1.0, 1.0, 1.0)


def test_scores_that_are_all_the_same_know_nothing() -> None:
    [(area, rate)] = roc_intervals([torch.zeros(10)], [torch.zeros(10)], resamples=50, seed=0)
    assert (area.value, area.low, area.high) == (0.5, 0.5, 0.5)
    assert (rate.value, rate.low, rate.high) == (0.0, 0.0, 0.0)


def test_the_resampled_figures_are_those_of_the_drawn_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    members, others = torch.randn(9).round(), torch.randn(7).round()
    counts = torch.tensor([[2.0, 0, 1, 0, 3, 0, 0, 1, 2]]).double(), torch.tensor([[0.0, 4, 0, 1, 0, 1, 1]]).double()
    monkeypatch.setattr("fgunlearn.metrics.roc_curve._draws", lambda *_: iter([counts]))
    [(area, rate)] = roc_intervals([members], [others], resamples=1, seed=0, max_fpr=0.2)
    drawn = [part.repeat_interleave(count[0].long()) for part, count in zip((members, others), counts, strict=True)]
    assert (area.low, rate.low) == pytest.approx(roc(*drawn, max_fpr=0.2))


def test_19_of_20_intervals_hold_the_true_auc() -> None:
    truth = 0.5 * (1.0 + math.erf(0.8 / 2.0))  # of two unit normals, 0.8 apart: their difference has variance 2
    hits = 0
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        members, others = (torch.randn(80, generator=generator) + shift for shift in (0.8, 0.0))
        [(area, _)] = roc_intervals([members], [others], resamples=300, seed=seed)
        hits += area.low <= truth <= area.high
    assert 0.91 < hits / 300 < 0.985


def test_several_scores_of_the_same_samples_are_drawn_together() -> None:
    members, others = torch.randn(30), torch.randn(20)
    first, same, reversed_ = roc_intervals(
        [members, 3.0 * members, -members], [others, 3.0 * others, -others], resamples=200, seed=4
    )
    assert first == same
    assert reversed_[0].low == pytest.approx(1.0 - first[0].high)
    assert reversed_[0].high == pytest.approx(1.0 - first[0].low)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**40))
def test_more_draws_than_are_held_at_a_time_and_the_seed(seed: int) -> None:
    members, others = [torch.randn(30)], [torch.randn(20)]
    at_once = roc_intervals(members, others, resamples=40, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fgunlearn.metrics.roc_curve._AT_ONCE", 1)
        assert roc_intervals(members, others, resamples=40, seed=seed) == at_once
    assert roc_intervals(members, others, resamples=40, seed=seed + 1) != at_once


def test_bad_scores_are_refused_by_name() -> None:
    some = torch.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match=r"others must be of shape .* got \(0,\)"):
        roc(some, torch.tensor([]))
    with pytest.raises(ValueError, match="members holds 1 NaN"):
        roc(torch.tensor([math.nan]), some)
    with pytest.raises(ValueError, match=r"max_fpr must be in \[0, 1\], got nan"):
        roc(some, some, math.nan)
    with pytest.raises(ValueError, match="resamples must be >= 1, got 0"):
        roc_intervals([some], [some], resamples=0, seed=0)
    with pytest.raises(ValueError, match=r"others must be scores of the same samples, got \[2, 1\]"):
        roc_intervals([some, some], [some, some[:1]], resamples=5, seed=0)


def test_members_and_others_are_drawn_apart() -> None:
    same = torch.randn(40)
    [(area, _)] = roc_intervals([same], [same.clone()], resamples=100, seed=0)
    assert area.low < 0.45 < area.value == 0.5 < 0.55 < area.high
