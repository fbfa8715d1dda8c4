from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fgunlearn import metrics
from fgunlearn.metrics import MembershipJudge
from fgunlearn.metrics.membership import losses_auc

losses = st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 9.0]), min_size=1, max_size=12).map(torch.tensor)


def test_separable_losses_give_a_perfect_judge_with_the_smallest_best_threshold() -> None:
    judge = MembershipJudge.fit(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0]))
    assert judge.threshold == pytest.approx(0.3)
    assert judge.balanced_accuracy == 1.0
    assert judge.members(torch.tensor([0.3, 0.30001, 0.0])).tolist() == [True, False, True]


def test_the_classes_weigh_the_same_whatever_their_sizes() -> None:
    judge = MembershipJudge.fit(torch.full((99,), 0.5), torch.tensor([0.4]))
    assert judge.balanced_accuracy == 0.5


@given(members=losses, others=losses)
def test_no_other_threshold_is_better(members: Tensor, others: Tensor) -> None:
    judge = MembershipJudge.fit(members, others)

    def balanced(threshold: float) -> Fraction:
        hits = Fraction(int((members.double() <= threshold).sum()), len(members))
        return (hits + Fraction(int((others.double() > threshold).sum()), len(others))) / 2

    best = balanced(judge.threshold)
    assert judge.balanced_accuracy == pytest.approx(float(best))
    candidates = torch.cat([members, others]).double().tolist()
    assert max(map(balanced, candidates)) == best
    assert min(t for t in candidates if balanced(t) == best) == judge.threshold


@given(asked=losses, others=losses)
def test_the_auc_counts_pairs_with_ties_as_half(asked: Tensor, others: Tensor) -> None:
    pairs = [(a < o) + 0.5 * (a == o) for a in asked.tolist() for o in others.tolist()]
    assert losses_auc(asked, others) == pytest.approx(sum(pairs) / len(pairs))
    assert losses_auc(asked, others) + losses_auc(others, asked) == pytest.approx(1.0)


def test_the_auc_of_a_model_that_memorised_is_one_and_of_one_that_does_not_care_one_half() -> None:
    sure, unsure = torch.tensor([[9.0, 0.0]]).repeat(5, 1), torch.zeros(5, 2)
    labels = torch.zeros(5, dtype=torch.long)
    assert metrics.membership_auc(nn.Identity(), [(sure, labels)], [(unsure, labels)]) == 1.0
    assert metrics.membership_auc(nn.Identity(), [(unsure, labels)], [(unsure, labels)]) == 0.5


def test_bad_losses_are_refused_by_name() -> None:
    some, none = torch.tensor([1.0]), torch.tensor([])
    with pytest.raises(ValueError, match="other_losses is empty"):
        MembershipJudge.fit(some, none)
    with pytest.raises(ValueError, match="member_losses holds 2 NaN"):
        MembershipJudge.fit(torch.tensor([float("nan"), 1.0, float("nan")]), some)
    with pytest.raises(ValueError, match="asked is empty"):
        losses_auc(none, some)
    for asked, others, message in ((math.nan, 1.0, "asked holds 1 NaN"), (1.0, math.nan, "others holds 1 NaN")):
        with pytest.raises(ValueError, match=message):
            losses_auc(torch.tensor([asked]), torch.tensor([others]))
