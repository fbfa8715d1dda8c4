from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fgunlearn import metrics

texts = st.lists(st.lists(st.floats(-20.0, 0.0, width=32), min_size=1, max_size=30), min_size=1, max_size=5)


def test_it_is_the_mean_of_the_least_likely_tokens() -> None:
    text = torch.tensor([-1.0, -9.0, -2.0, -0.5, -7.0, -0.1, -3.0, -0.2, -0.3, -0.4])
    assert metrics.min_k_prob([text], 0.2).tolist() == [-8.0]
    assert metrics.min_k_prob([text], 0.3).tolist() == pytest.approx([-19.0 / 3.0])
    assert metrics.min_k_prob([text], 1.0).tolist() == pytest.approx([float(text.double().mean())])


def test_one_token_is_looked_at_in_a_text_too_short_for_the_share() -> None:
    assert metrics.min_k_prob([torch.tensor([-1.0, -4.0, -2.0]), torch.tensor([-5.0])]).tolist() == [-4.0, -5.0]


def test_a_share_that_is_whole_but_for_rounding_counts_whole() -> None:
    text = -torch.arange(100.0)  # 0.29 * 100 is 28.999999999999996
    assert metrics.min_k_prob([text], 0.29).tolist() == [-float(torch.arange(71.0, 100.0).mean())]


@given(texts=texts, share=st.floats(0.01, 1.0))
def test_it_is_what_sorting_gives(texts: list[list[float]], share: float) -> None:
    found = metrics.min_k_prob([torch.tensor(text) for text in texts], share)
    assert found.dtype == torch.float64
    for value, text in zip(found.tolist(), texts, strict=True):
        least = sorted(text)[: max(1, math.floor(share * len(text) + 1e-9))]
        assert value == pytest.approx(sum(least) / len(least), abs=1e-9)


def test_an_impossible_token_is_minus_infinity() -> None:
    assert metrics.min_k_prob([torch.tensor([-1.0, -math.inf])]).tolist() == [-math.inf]


def test_memorised_texts_are_told_from_others_and_like_ones_are_not() -> None:
    known = metrics.min_k_prob([torch.full((20,), -0.01) for _ in range(4)])
    others = metrics.min_k_prob([torch.tensor([-0.01] * 15 + [-6.0] * 5) for _ in range(6)])
    assert metrics.attack_of("min_k", known, others).auc.value == 1.0
    assert metrics.attack_of("min_k", others, others).auc.value == 0.5


@pytest.mark.parametrize(
    ("log_probs", "share", "error", "message"),
    [
        ([], 0.2, ValueError, "log_probs is empty"),
        (torch.zeros(2, 3), 0.2, TypeError, r"one tensor per text, got a tensor of shape \(2, 3\)"),
        ([torch.zeros(3), torch.zeros(0)], 0.2, ValueError, r"log_probs\[1\] must be of shape .*, got \(0,\)"),
        ([torch.zeros(2, 3)], 0.2, ValueError, r"log_probs\[0\] must be of shape .*, got \(2, 3\)"),
        (
            [torch.zeros(3, dtype=torch.int64)],
            0.2,
            TypeError,
            r"log_probs\[0\] must be a float tensor, got torch.int",
        ),
        ([[0.0, -1.0]], 0.2, TypeError, r"log_probs\[0\] must be a float tensor, got list"),
        ([torch.tensor([-1.0, math.nan, 0.5])], 0.2, ValueError, r"log_probs\[0\] holds 2 values that are no log prob"),
        ([torch.zeros(3)], 0.0, ValueError, "share must be > 0 and at most 1, got 0.0"),
        ([torch.zeros(3)], 1.5, ValueError, "share must be > 0 and at most 1, got 1.5"),
        ([torch.zeros(3)], "all", TypeError, "share must be a number, got 'all'"),
    ],
)
def test_what_it_cant_take_is_refused_by_name(
    log_probs: object, share: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        metrics.min_k_prob(log_probs, share)  # type: ignore[arg-type]
