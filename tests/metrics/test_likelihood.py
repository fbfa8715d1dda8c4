from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fgunlearn.metrics import lira_scores, roc, u_lira_scores

IN = torch.tensor([[True, False], [True, True], [False, True], [False, False]])
SHADOWS = torch.tensor([[5.0, -1.0], [7.0, 4.0], [1.0, 6.0], [2.0, 2.0]])
TARGET = torch.tensor([4.0, 3.0])


def log_normal(value: float, mean: float, variance: float) -> float:
    return -((value - mean) ** 2) / (2 * variance) - 0.5 * math.log(2 * math.pi * variance)


def test_online_with_a_variance_per_sample_by_hand() -> None:
    # Sample 0: in 5 and 7, out 1 and 2. Sample 1: in 4 and 6, out -1 and 2.
    expected = [
        log_normal(4.0, 6.0, 2.0) - log_normal(4.0, 1.5, 0.5),
        log_normal(3.0, 5.0, 2.0) - log_normal(3.0, 0.5, 4.5),
    ]
    found = lira_scores(TARGET, SHADOWS, IN, variance="sample")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_online_with_one_variance_for_all_is_their_mean() -> None:
    expected = [
        log_normal(4.0, 6.0, 2.0) - log_normal(4.0, 1.5, 2.5),
        log_normal(3.0, 5.0, 2.0) - log_normal(3.0, 0.5, 2.5),
    ]
    torch.testing.assert_close(lira_scores(TARGET, SHADOWS, IN), torch.tensor(expected, dtype=torch.float64))


def test_samples_with_more_shadows_weigh_more_in_the_one_variance() -> None:
    shadows = torch.tensor([[0.0, 0.0], [2.0, 8.0], [4.0, 0.0], [9.0, 0.0], [9.0, 9.0]])
    memberships = torch.tensor([[True, True], [True, True], [True, False], [False, False], [False, False]])
    # In: squares about the mean 8 and 32, degrees of freedom 2 and 1. Out: 0 and 54 with 1 and 2.
    found = lira_scores(TARGET, shadows, memberships)
    expected = [
        log_normal(4.0, 2.0, 40 / 3) - log_normal(4.0, 9.0, 54 / 3),
        log_normal(3.0, 4.0, 40 / 3) - log_normal(3.0, 3.0, 54 / 3),
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(("variance", "expected"), [("sample", (0.5, 4.5)), ("global", (2.5, 2.5))])
def test_offline_is_the_tail_of_the_models_without_the_sample(variance: Any, expected: tuple[float, float]) -> None:
    found = lira_scores(TARGET, SHADOWS, IN, variant="offline", variance=variance)
    tails = [
        0.5 * math.erfc((value - mean) / math.sqrt(2 * of))
        for value, mean, of in zip((4.0, 3.0), (1.5, 0.5), expected, strict=True)
    ]
    torch.testing.assert_close(found, -torch.tensor(tails, dtype=torch.float64).log())


def test_offline_does_not_look_at_models_with_the_sample_and_needs_none() -> None:
    nobody = torch.zeros(4, 2, dtype=torch.bool)
    spoiled = torch.where(IN, torch.tensor(1e6), SHADOWS)
    assert lira_scores(TARGET, spoiled, IN, variant="offline").equal(
        lira_scores(TARGET, SHADOWS, IN, variant="offline")
    )
    assert lira_scores(TARGET, SHADOWS, nobody, variant="offline").shape == (2,)


def test_offline_keeps_the_order_of_the_very_sure() -> None:
    shadows = torch.tensor([[0.0] * 3, [0.1] * 3])
    found = lira_scores(
        torch.tensor([40.0, 50.0, 60.0]), shadows, torch.zeros(2, 3, dtype=torch.bool), variant="offline"
    )
    assert bool((found.diff() > 0).all())
    assert bool(found.isfinite().all())


def test_u_lira_by_hand() -> None:
    unlearned, retrained = torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([[0.0, 0.0], [1.0, 3.0], [2.0, 6.0]])
    expected = [
        log_normal(4.0, 2.0, 2.0) - log_normal(4.0, 1.0, 1.0),
        log_normal(3.0, 4.0, 8.0) - log_normal(3.0, 3.0, 9.0),
    ]
    found = u_lira_scores(TARGET, unlearned, retrained, variance="sample")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_u_lira_counts_only_the_models_that_unlearned_the_sample() -> None:
    retrained = torch.randn(3, 2)
    spoiled = torch.where(IN, SHADOWS, torch.tensor(1e6))
    found = u_lira_scores(TARGET, spoiled, retrained, memberships=IN, variance="sample")
    kept = torch.stack([SHADOWS[IN[:, i], i] for i in range(2)], 1)
    torch.testing.assert_close(found, u_lira_scores(TARGET, kept, retrained, variance="sample"))


def simulated(n: int, shadows: int, effect: float) -> tuple[Tensor, Tensor, Tensor]:
    """Samples of very different difficulty, whose membership adds ``effect``; half of the target's are members."""
    difficulty = 3.0 * torch.randn(n)
    members = torch.rand(shadows + 1, n) < 0.5
    confidences = difficulty + effect * members + torch.randn(shadows + 1, n)
    return confidences, members[0], members


def test_members_are_told_where_membership_has_an_effect_and_difficulty_hides_it_from_the_loss() -> None:
    confidences, truth, members = simulated(1500, 32, 2.0)
    found = lira_scores(confidences[0], confidences[1:], members[1:])
    ideal = 0.5 * (1.0 + math.erf(2.0 / 2.0))  # the difficulty known: two unit normals, 2 apart
    assert roc(found[truth], found[~truth])[0] == pytest.approx(ideal, abs=0.03)
    assert roc(confidences[0][truth], confidences[0][~truth])[0] < 0.75


@pytest.mark.parametrize("variance", ["global", "sample"])
@pytest.mark.parametrize("variant", ["online", "offline"])
def test_without_an_effect_members_are_not_told(variant: Any, variance: Any) -> None:
    confidences, truth, members = simulated(3000, 32, 0.0)
    found = lira_scores(confidences[0], confidences[1:], members[1:], variant=variant, variance=variance)
    assert roc(found[truth], found[~truth])[0] == pytest.approx(0.5, abs=0.035)  # three standard deviations


def test_an_unlearned_model_that_is_like_retrained_ones_is_not_told() -> None:
    difficulty = 3.0 * torch.randn(2000)
    unlearned, retrained, target = (difficulty + torch.randn(16, 2000) for _ in range(3))
    found = u_lira_scores(target[0], unlearned, retrained)
    assert roc(found[:1000], found[1000:])[0] == pytest.approx(0.5, abs=0.04)
    found = u_lira_scores(target[0] + 2.0 * (torch.arange(2000) < 1000), unlearned + 2.0, retrained)
    assert roc(found[:1000], found[1000:])[0] > 0.85


def test_shadows_that_all_agree_give_finite_scores() -> None:
    assert bool(lira_scores(TARGET, torch.ones(4, 2), IN, variance="sample").isfinite().all())


def test_bad_scores_are_refused() -> None:
    with pytest.raises(
        ValueError, match="variant must be one of 'online', 'offline', got 'ofline'; did you mean 'offl"
    ):
        lira_scores(TARGET, SHADOWS, IN, variant="ofline")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="variance must be one of 'global', 'sample', got 'each'"):
        lira_scores(TARGET, SHADOWS, IN, variance="each")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"memberships must be bool, got torch\.int64"):
        lira_scores(TARGET, SHADOWS, IN.long())
    with pytest.raises(ValueError, match=r"memberships must be of shape \(4, 2\), got \(2, 4\)"):
        lira_scores(TARGET, SHADOWS, IN.T)
    with pytest.raises(ValueError, match=r"shadows must be of shape \(shadows, 2\), got \(2, 4\)"):
        lira_scores(TARGET, SHADOWS.T, IN)
    with pytest.raises(ValueError, match="target holds 1 values that are NaN or infinite"):
        lira_scores(torch.tensor([math.nan, 0.0]), SHADOWS, IN)
    with pytest.raises(ValueError, match="unlearned holds 8 values"):
        u_lira_scores(TARGET, SHADOWS * math.inf, SHADOWS)


def test_too_few_shadows_are_refused_with_the_sample() -> None:
    memberships = IN.clone()
    memberships[1, 1] = False
    with pytest.raises(ValueError, match=r"needs 2 shadow models or more .* sample 1 has 1 \(in\)"):
        lira_scores(TARGET, SHADOWS, memberships, variance="sample")
    assert lira_scores(TARGET, SHADOWS, memberships).shape == (2,)
    with pytest.raises(ValueError, match=r"needs 1 shadow models or more .* sample 0 has 0 \(out\)"):
        lira_scores(TARGET, SHADOWS, torch.ones(4, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"a sample with 2 shadow models or more \(unlearned\)"):
        u_lira_scores(TARGET, SHADOWS[:1], SHADOWS)
