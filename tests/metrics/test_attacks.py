from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fgunlearn.metrics import ATTACKS, MembershipJudge, Outputs, attack_of, membership_auc, mia, mia_of, roc

Batches = list[tuple[Tensor, Tensor]]


class Echo(nn.Module):
    """Returns its input as logits."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def outputs(n: int, sureness: float, seed: int, wrong: float = 0.1) -> Outputs:
    """Samples of 4 classes, random logits with about ``sureness`` more on the label, or on another for some."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (n,), generator=generator)
    logits = torch.randn(n, 4, generator=generator)
    top = torch.where(torch.rand(n, generator=generator) < wrong, (labels + 1) % 4, labels)
    logits[torch.arange(n), top] += sureness
    return Outputs(logits, labels)


def batches(of: Outputs, size: int = 16) -> Batches:
    return list(zip(of.logits.split(size), of.labels.split(size), strict=True))


SURE, UNSURE = 15.0, 1.0


@pytest.mark.parametrize("name", ATTACKS)
def test_a_model_that_memorised_gives_everything_away(name: str) -> None:
    found = mia_of(
        outputs(120, SURE, 1, wrong=0.0),
        outputs(150, UNSURE, 2),
        retain=outputs(300, SURE, 3, wrong=0.0),
        heldout=outputs(150, UNSURE, 4),
    )[name]
    assert found.name == name
    assert found.auc.value > 0.999
    assert found.auc.low > 0.995
    assert found.tpr.value > 0.95
    assert found.member_share is not None
    assert found.accuracy is not None
    assert found.member_share > 0.98
    assert found.accuracy > 0.98


@pytest.mark.parametrize("name", ATTACKS)
def test_a_model_that_never_saw_the_forget_data_gives_nothing_away(name: str) -> None:
    covered = 0
    for seed in range(0, 100, 5):
        found = mia_of(
            outputs(150, UNSURE, seed),
            outputs(150, UNSURE, seed + 1),
            retain=outputs(300, SURE, seed + 2, wrong=0.0),
            heldout=outputs(150, UNSURE, seed + 3),
            attacks=[name],
            resamples=300,
        )[name]
        covered += found.auc.low <= 0.5 <= found.auc.high
        assert found.accuracy == pytest.approx(0.5, abs=0.08)
        assert found.tpr.value < 0.1
    assert covered >= 16  # of 20, where 19 are due


def test_the_confidently_wrong_are_told_by_the_label_and_not_by_the_entropy() -> None:
    # Over-forgotten: as sure as a member, and wrong.
    found = mia_of(outputs(100, SURE, 1, wrong=1.0), outputs(100, UNSURE, 2))
    assert found["entropy"].auc.value > 0.95
    for name in ("loss", "confidence", "modified_entropy"):
        assert found[name].auc.value < 0.1


def test_scores_and_figures_are_those_of_their_definitions() -> None:
    forget, test, retain, heldout = (outputs(90, sure, seed) for seed, sure in enumerate((4.0, 2.0, 5.0, 2.0)))
    found = mia_of(forget, test, retain=retain, heldout=heldout)
    assert list(found) == list(ATTACKS)
    of_forget = {
        "loss": -forget.losses,
        "confidence": forget.confidence,
        "entropy": -forget.entropy,
        "modified_entropy": -forget.modified_entropy,
    }
    for name, scores in of_forget.items():
        assert found[name].forget_scores.equal(scores)
    for attack in found.values():
        assert (attack.auc.value, attack.tpr.value) == roc(attack.forget_scores, attack.other_scores)
        assert attack.auc.low < attack.auc.value < attack.auc.high
    judge = MembershipJudge.fit(retain.losses, heldout.losses)
    caught, cleared = judge.members(forget.losses).double().mean(), (~judge.members(test.losses)).double().mean()
    assert found["loss"].member_share == pytest.approx(float(caught))
    assert found["loss"].accuracy == pytest.approx(float(caught + cleared) / 2)
    assert found["loss"].auc.value == pytest.approx(found["confidence"].auc.value)


def test_the_logistic_attack_uses_what_no_single_score_has() -> None:
    # Members are sure, and right or wrong alike: the entropy tells them. The others are unsure and right.
    parts = [outputs(200, sure, seed, wrong) for seed, (sure, wrong) in enumerate([(12.0, 0.5), (2.0, 0.0)] * 2)]
    found = mia_of(parts[0], parts[1], retain=parts[2], heldout=parts[3])
    assert found["loss"].auc.value < 0.7
    assert found["logistic"].auc.value > 0.95


def test_from_a_model_and_loaders_it_is_the_same_as_from_outputs() -> None:
    parts = [outputs(50, sure, seed) for seed, sure in enumerate((4.0, 2.0, 5.0, 2.0))]
    loaders = [batches(part) for part in parts]
    found = mia(Echo(), *loaders[:2], retain_loader=loaders[2], heldout_loader=loaders[3], resamples=50, seed=7)
    assert found == mia_of(*parts[:2], retain=parts[2], heldout=parts[3], resamples=50, seed=7)
    assert found["loss"].auc.value == pytest.approx(membership_auc(Echo(), *loaders[:2]))


def test_without_data_to_fit_on_there_is_no_logistic_attack_and_no_judgement() -> None:
    forget, test = (batches(outputs(30, 2.0, seed)) for seed in range(2))
    found = mia(Echo(), forget, test, resamples=10)
    assert list(found) == [name for name in ATTACKS if name != "logistic"]
    assert {(attack.accuracy, attack.member_share) for attack in found.values()} == {(None, None)}
    with pytest.raises(ValueError, match="'logistic' needs retain and held-out data"):
        mia(Echo(), forget, test, attacks=["logistic"])
    with pytest.raises(ValueError, match="retain_loader and heldout_loader must be given together"):
        mia(Echo(), forget, test, retain_loader=forget)


def test_the_model_is_looked_at_in_eval_mode_and_left_as_it_was(
    model: nn.Module,
    batches: Batches,
    state_of: Callable[[nn.Module], dict[str, Tensor]],
    assert_same: Callable[..., None],
) -> None:
    before = state_of(model.train())
    first = mia(model, batches, batches, retain_loader=batches, heldout_loader=batches, resamples=10)
    assert first == mia(model, batches, batches, retain_loader=batches, heldout_loader=batches, resamples=10)
    assert {attack.auc.value for attack in first.values()} == {0.5}  # the same samples on either side
    assert_same(before, state_of(model))


@pytest.mark.parametrize(
    ("attacks", "message"),
    [
        (["loss", "modified_entropi"], "'modified_entropi'.*did you mean 'modified_entropy'"),
        (["lss"], "did you mean 'loss'"),
        (["zzz"], "known are 'loss', 'confidence'"),
        ([], "one attack or more"),
    ],
)
def test_attacks_that_are_none_are_refused(attacks: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mia(Echo(), [], [], attacks=attacks)


def test_one_name_is_not_a_sequence_of_them() -> None:
    with pytest.raises(TypeError, match="the string 'loss'"):
        mia(Echo(), [], [], attacks="loss")


def test_bad_data_are_refused_with_the_loaders_name() -> None:
    some = batches(outputs(8, 1.0, 0))
    with pytest.raises(ValueError, match="test_loader: the loader is empty"):
        mia(Echo(), some, [])
    with pytest.raises(ValueError, match=r"forget_loader: model must return logits of shape \(2, classes\)"):
        mia(Echo(), [(torch.zeros(2, 3, 3), torch.tensor([0, 1]))], some)
    with pytest.raises(ValueError, match="forget_loader: logits hold 1 values that are NaN"):
        mia(Echo(), [(torch.tensor([[float("nan"), 0.0]]), torch.tensor([0]))], some)
    with pytest.raises(TypeError, match="batches"):
        mia(Echo(), [torch.zeros(2, 3)], some)
    with pytest.raises(ValueError, match="resamples must be >= 1, got 0"):
        mia(Echo(), some, some, resamples=0)


def test_an_attack_from_scores_judges_those_that_reach_the_threshold() -> None:
    found = attack_of("mine", torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([-1.0, 0.0]), 1.0, resamples=20)
    assert (found.name, found.member_share, found.accuracy) == ("mine", 0.75, 0.875)
    assert found.auc.value == pytest.approx((7 + 0.5) / 8)
    without = attack_of("mine", torch.tensor([0.0]), torch.tensor([0.0]), resamples=5)
    assert dataclasses.asdict(without)["accuracy"] is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"resamples": 0}, ValueError, "resamples must be >= 1, got 0"),
        ({"resamples": 2.0}, TypeError, r"resamples must be an int, got 2\.0"),
        ({"seed": 2**63}, ValueError, "seed must fit in 64 bits"),
        ({"seed": "0"}, TypeError, "seed must be an int, got '0'"),
    ],
)
def test_draws_that_can_not_be_made_are_refused_before_any_pass(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    def unread() -> Iterator[Any]:
        raise AssertionError("a pass was made")
        yield

    with pytest.raises(error, match=message):
        mia(nn.Identity(), unread(), unread(), **options)


@pytest.mark.parametrize("seed", [-(2**63), 2**63 - 1])
def test_every_64_bit_seed_will_do(seed: int) -> None:
    scores = torch.arange(5.0)
    assert attack_of("any", scores, scores, resamples=3, seed=seed).auc.value == 0.5
