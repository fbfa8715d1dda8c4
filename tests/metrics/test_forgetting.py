"""Models made by hand: a table of logits, one row per sample number, so that every judgement is known beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fgunlearn import metrics

SURE, UNSURE, WRONG = [9.0, 0.0], [0.1, 0.0], [0.0, 9.0]  # logits of a sample of label 0
RETAIN, FORGET, HELDOUT = range(4), range(4, 8), range(8, 12)


class Lookup(nn.Module):
    """Answers for sample i with row i."""

    def __init__(self, *rows: list[float]) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows))

    def forward(self, x: Tensor) -> Tensor:
        return self.rows[x]


def batches(samples: range) -> list[tuple[Tensor, Tensor]]:
    return [(torch.tensor([i]), torch.tensor([0])) for i in samples]


def model(*, retain: list[list[float]], forget: list[list[float]]) -> Lookup:
    return Lookup(*retain, *forget, *[UNSURE] * 4)


MEMORISED = model(retain=[SURE] * 4, forget=[SURE] * 4)


def forgetting(unlearned: nn.Module, source: nn.Module = MEMORISED) -> metrics.Forgetting:
    return metrics.forgetting_rate(source, unlearned, batches(FORGET), batches(RETAIN), batches(HELDOUT))


def retention(unlearned: nn.Module, source: nn.Module = MEMORISED) -> metrics.Forgetting:
    return metrics.memory_retention_rate(source, unlearned, batches(RETAIN), batches(HELDOUT))


def test_a_model_that_did_not_change_forgot_nothing_and_retained_everything() -> None:
    found = forgetting(MEMORISED)
    assert (found.rate, found.rate_accuracy) == (0.0, 0.0)
    assert (found.members_before, found.others_before, found.counted_after) == (4, 0, 0)
    assert (retention(MEMORISED).rate, retention(MEMORISED).rate_accuracy) == (1.0, 1.0)


def test_a_model_that_never_saw_the_forget_data_forgot_all_of_it() -> None:
    never = model(retain=[SURE] * 4, forget=[UNSURE] * 4)
    assert forgetting(never).rate == 1.0
    assert forgetting(never).rate_accuracy == 0.0  # it is right all the same: accuracy can't see what membership sees
    assert retention(never).rate == 1.0


def test_wrong_answers_count_in_both_forms() -> None:
    found = forgetting(model(retain=[SURE] * 4, forget=[WRONG, SURE, SURE, SURE]))
    assert (found.rate, found.rate_accuracy) == (0.25, 0.25)


def test_samples_judged_non_members_before_are_taken_off() -> None:
    source = model(retain=[SURE] * 4, forget=[SURE, SURE, UNSURE, UNSURE])
    found = forgetting(model(retain=[SURE] * 4, forget=[UNSURE] * 4), source)
    assert (found.members_before, found.others_before, found.counted_after) == (2, 2, 4)
    assert found.rate == (4 - 2) / 2


def test_more_memory_than_before_is_a_negative_rate() -> None:
    source = model(retain=[SURE] * 4, forget=[SURE, UNSURE, UNSURE, UNSURE])
    assert forgetting(MEMORISED, source).rate == (0 - 3) / 1


def test_without_a_member_before_the_rate_is_undefined() -> None:
    source = model(retain=[SURE] * 4, forget=[WRONG] * 4)
    found = forgetting(MEMORISED, source)
    assert math.isnan(found.rate)
    assert math.isnan(found.rate_accuracy)


def test_retention_is_the_share_of_members_that_stay_members() -> None:
    found = retention(model(retain=[SURE, SURE, SURE, WRONG], forget=[SURE] * 4))
    assert (found.rate, found.rate_accuracy) == (0.75, 0.75)
    assert (found.members_before, found.counted_after) == (4, 3)


def test_the_judge_is_fitted_on_each_model_anew() -> None:
    # A model that is less sure everywhere, by the same factor, has the same members.
    cooler = Lookup(*(MEMORISED.rows.detach() * 0.5).tolist())
    assert forgetting(cooler).rate == 0.0
    assert retention(cooler).rate == 1.0


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(ValueError, match="loader is empty"):
        metrics.forgetting_rate(MEMORISED, MEMORISED, batches(FORGET), batches(RETAIN), [])


@pytest.mark.parametrize("rate", [metrics.forgetting_of, metrics.retention_of])
def test_judgements_that_do_not_belong_together_are_refused(rate: Callable[..., object]) -> None:
    some = torch.tensor([True, False, True])
    with pytest.raises(TypeError, match=r"after must be bool, got torch\.int64"):
        rate(some, some.long(), 0.5, 0.5)
    with pytest.raises(ValueError, match=r"after must be of the shape of before, \(3,\), got \(1,\)"):
        rate(some, some[:1], 0.5, 0.5)
    with pytest.raises(ValueError, match=r"before must be of shape \(samples,\) with one sample or more, got \(0,\)"):
        rate(some[:0], some[:0], 0.5, 0.5)
