"""Targets made of held-out data: which samples they contradict, and how sure they are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fgunlearn.metrics import Outputs
from fgunlearn.unlearning.targets import Targets

CLASSES = 4
ALL = torch.ones(CLASSES, dtype=torch.bool)


def outputs(n: int, seed: int, right: float) -> Outputs:
    """Logits that name the label of about a share ``right`` of the samples."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, CLASSES, (n,), generator=generator)
    named = torch.where(torch.rand(n, generator=generator) < right, y, (y + 1) % CLASSES)
    sure = 1.0 + 3.0 * torch.rand(n, 1, generator=generator)
    return Outputs(sure * F.one_hot(named, CLASSES) + 0.3 * torch.randn(n, CLASSES, generator=generator), y)


def votes_for(labels: Tensor, wrong: Tensor) -> Tensor:
    """Votes of 7 to 1 for the label, or where ``wrong`` for the class after it."""
    named = torch.where(wrong, (labels + 1) % CLASSES, labels)
    return (6 * F.one_hot(named, CLASSES) + 2 / CLASSES) / 8.0


def none(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.bool)


def test_a_random_part_gets_the_heldout_datas_accuracy_and_log_odds() -> None:
    source, heldout = outputs(400, 0, 1.0), outputs(400, 1, 0.7)
    targets = Targets(
        source, votes_for(source.labels, none(400)), votes_for(heldout.labels, none(400)), heldout.labels, ALL
    )
    assert targets.supported_share == 1.0
    targets.follow(heldout)
    wanted = targets.of(torch.arange(400))
    torch.testing.assert_close(wanted.sum(1), torch.ones(400, dtype=torch.float64))
    log_odds = torch.logit(wanted.gather(1, source.labels[:, None]).squeeze(1))
    quantiles = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    torch.testing.assert_close(
        torch.quantile(log_odds, quantiles), torch.quantile(heldout.log_odds, quantiles), atol=0.1, rtol=0.0
    )
    # Those that the source model is surest of are expected right, the hardest wrong.
    by_ease = torch.argsort(source.log_odds)
    assert float(log_odds[by_ease[:40]].max()) < float(log_odds[by_ease[-40:]].min())


def test_wrong_labels_are_contradicted_by_their_votes() -> None:
    source, heldout = outputs(100, 0, 1.0), outputs(100, 1, 0.9)
    mislabelled = torch.arange(100) < 60
    votes = votes_for(source.labels, mislabelled)
    targets = Targets(source, votes, votes_for(heldout.labels, none(100)), heldout.labels, ALL)
    targets.follow(heldout)
    assert targets.supported_share == pytest.approx(0.4 + 0.24**0.5 / 10, abs=2e-3)  # and a standard error
    wanted = targets.of(torch.arange(100))
    own = wanted.gather(1, source.labels[:, None]).squeeze(1)
    # Three quarters of those in doubt are right as well, 5 of 60.
    assert float((own[mislabelled] < 0.02).double().mean()) > 0.9
    other = wanted[mislabelled].argmax(1) == votes[mislabelled].argmax(1)
    assert float(other.double().mean()) > 0.9
    assert float((own[~mislabelled] > 0.3).double().mean()) > 0.8
    assert float(own.min()) > 1e-4  # nobody is asked for infinite logits


def test_a_class_that_the_remaining_data_lacks_is_contradicted_and_says_nothing_of_unseen_data() -> None:
    source, heldout = outputs(100, 0, 1.0), outputs(300, 1, 0.8)
    source = Outputs(source.logits.scatter(1, torch.full((100, 1), 2), 9.0), torch.full((100,), 2))
    known = torch.tensor([True, True, False, True])
    votes = votes_for(source.labels, ~none(100))  # for class 3
    targets = Targets(source, votes, votes_for(heldout.labels, heldout.labels == 2), heldout.labels, known)
    targets.follow(heldout)
    assert targets.supported_share == pytest.approx(1 / 101)  # what none of a hundred leaves open
    assert float(targets.of(torch.arange(100))[:, 2].max()) < 0.003
    fallen = Outputs(heldout.logits - 20.0 * F.one_hot(torch.full((300,), 2), CLASSES), heldout.labels)
    targets.follow(fallen)  # as deep as unseen samples of that class have fallen with it
    assert float(targets.of(torch.arange(100))[:, 2].max()) < 2e-5


def test_what_a_target_was_missed_by_is_made_up_for_and_no_more_than_so_much() -> None:
    source, heldout = outputs(50, 0, 1.0), outputs(50, 1, 0.6)
    targets = Targets(
        source, votes_for(source.labels, none(50)), votes_for(heldout.labels, none(50)), heldout.labels, ALL
    )
    targets.follow(heldout)
    everything, before = torch.arange(50), targets.of(torch.arange(50)).clone()
    own = source.labels[:, None]
    for _ in range(30):  # a model that stays as sure of the labels as ever
        targets.follow(heldout, Outputs(20.0 * F.one_hot(source.labels, CLASSES), source.labels))
    fall = torch.logit(before.gather(1, own)) - torch.logit(targets.of(everything).gather(1, own))
    torch.testing.assert_close(fall, torch.full((50, 1), 4.0, dtype=torch.float64))


def test_votes_and_log_odds_together_tell_which_sample_is_the_hardest() -> None:
    labels = torch.zeros(5, dtype=torch.int64)
    votes = torch.tensor([[own, 1.0 - own, 0.0, 0.0] for own in (0.60, 0.65, 0.70, 0.75, 0.80)])
    source = Outputs(torch.tensor([[own, 0.0, 0.0, 0.0] for own in (9.0, 2.0, 3.0, 4.0, 1.0)]), labels)
    heldout = Outputs(torch.tensor([[4.0, 0.0, 0.0, 0.0]] * 4 + [[0.0, 4.0, 0.0, 0.0]]), labels)
    targets = Targets(source, votes, votes, labels, ALL)
    targets.follow(heldout)  # one of five is wrong
    # Sample 0 has the fewest votes but is surest, sample 4 the other way round.
    assert (targets.of(torch.arange(5)).argmax(1) != 0).tolist() == [False, True, False, False, False]


def test_what_is_not_the_labels_goes_to_the_classes_of_votes_and_runner_up() -> None:
    labels = torch.zeros(1, dtype=torch.int64)
    source = Outputs(torch.tensor([[9.0, -40.0, 5.0, -40.0]]), labels)  # class 2 is its second choice
    for_votes = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    heldout_votes = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    half = Targets(source, for_votes, heldout_votes, labels, ALL).of(torch.arange(1))[0]
    assert half[1] == pytest.approx(float(half[2]), rel=0.01)
    assert float(half[1:3].sum()) > 0.97
    # Three quarters of the shares, by half of the votes and the source model: more of the target than that.
    both = Targets(source, torch.tensor([[0.0, 0.5, 0.5, 0.0]]), heldout_votes, labels, ALL).of(torch.arange(1))[0]
    assert float(both[2] / both[1:].sum()) > 0.8


@pytest.mark.parametrize(("n", "contradicted"), [(1, 0), (2, 1), (3, 2), (100, 99)])
def test_one_vote_against_a_label_is_not_enough(n: int, contradicted: int) -> None:
    source, heldout = outputs(n, 0, 1.0), outputs(400, 1, 0.9)
    targets = Targets(
        source, votes_for(source.labels, ~none(n)), votes_for(heldout.labels, none(400)), heldout.labels, ALL
    )
    assert round((1.0 - targets.supported_share) * n) == contradicted


def test_votes_that_are_never_right_contradict_nobody() -> None:
    source, heldout = outputs(30, 0, 1.0), outputs(30, 1, 0.7)
    votes, wrong = (votes_for(part.labels, ~none(30)) for part in (source, heldout))
    assert Targets(source, votes, wrong, heldout.labels, ALL).supported_share == 1.0


def test_heldout_samples_of_a_class_that_the_remaining_data_lacks_say_nothing_of_the_others() -> None:
    source, heldout = outputs(100, 0, 1.0), outputs(400, 1, 0.9)
    known = torch.tensor([True, True, False, True])
    source = Outputs(source.logits, torch.where(source.labels == 2, 3, source.labels))
    lost = Outputs(heldout.logits - 30.0 * F.one_hot(torch.full((400,), 2), CLASSES), heldout.labels)
    rest = heldout.labels != 2
    doubted = votes_for(source.labels, torch.arange(100) % 2 == 0)  # half of them
    with_it = Targets(source, doubted, votes_for(heldout.labels, ~rest), heldout.labels, known)
    without = Targets(
        source, doubted, votes_for(heldout.labels[rest], none(int(rest.sum()))), heldout.labels[rest], known
    )
    assert with_it.supported_share == without.supported_share < 0.6
    with_it.follow(lost)
    without.follow(Outputs(lost.logits[rest], lost.labels[rest]))
    assert torch.equal(with_it.of(torch.arange(100)), without.of(torch.arange(100)))


def test_no_target_is_a_class_that_the_remaining_data_lacks() -> None:
    """Two similar classes are forgotten, with a few samples of the others: neither is the other's target."""
    labels = torch.tensor([2] * 6 + [3] * 6 + [0] * 188)
    source = Outputs(8.0 * F.one_hot(labels, CLASSES) + 5.0 * (torch.arange(CLASSES) >= 2), labels)
    known = torch.tensor([True, True, False, False])
    heldout = outputs(300, 1, 0.8)
    heldout = Outputs(heldout.logits[heldout.labels < 2], heldout.labels[heldout.labels < 2])
    votes = votes_for(labels, none(200)) * known
    votes = torch.where(labels[:, None] >= 2, torch.tensor([0.0, 1.0, 0.0, 0.0]), votes / votes.sum(1, keepdim=True))
    targets = Targets(source, votes, votes_for(heldout.labels, none(len(heldout))), heldout.labels, known)
    assert targets.supported_share > 0.94  # by its standard error, more than the 188
    targets.follow(heldout)
    found = targets.of(torch.arange(200))
    assert float(found[:12, 2:].max()) < 0.01  # although no held-out sample tells how deep they fall
    assert float(found[:, 2:].max()) < 0.01
    torch.testing.assert_close(found.sum(1), torch.ones(200, dtype=torch.float64))


def test_where_one_class_remains_its_samples_may_be_any_other() -> None:
    labels = torch.zeros(3, dtype=torch.int64)
    source = Outputs(torch.tensor([[3.0, 1.0, 0.0, 0.0]] * 3), labels)
    votes = F.one_hot(labels, CLASSES).float()
    targets = Targets(source, votes, votes, labels, torch.tensor([True, False, False, False]))
    targets.follow(Outputs(torch.tensor([[0.0, 1.0, 0.0, 0.0]] * 3), labels))
    torch.testing.assert_close(targets.of(torch.arange(3)).sum(1), torch.ones(3, dtype=torch.float64))


def forgotten_class() -> tuple[Targets, Outputs]:
    """Targets of 50 samples of class 2, all of which went, and what the source model says about them."""
    source, heldout = outputs(50, 0, 1.0), outputs(300, 1, 0.8)
    source = Outputs(source.logits.scatter(1, torch.full((50, 1), 2), 9.0), torch.full((50,), 2))
    known = torch.tensor([True, True, False, True])
    targets = Targets(
        source, votes_for(source.labels, ~none(50)), votes_for(heldout.labels, none(300)), heldout.labels, known
    )
    targets.follow(Outputs(heldout.logits - 14.0 * F.one_hot(torch.full((300,), 2), CLASSES), heldout.labels))
    return targets, source


def test_of_a_class_that_went_the_hardest_fall_deepest() -> None:
    targets, source = forgotten_class()
    own = targets.of(torch.arange(50))[:, 2][torch.argsort(source.log_odds)]
    assert bool((own.diff() >= 0).all())
    assert float(own[-1]) > 10 * float(own[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_deep_down_log_odds_are_still_told_apart(dtype: torch.dtype) -> None:
    targets, _ = forgotten_class()
    chosen = torch.tensor([7, 3])
    wanted = torch.logit(targets.of(chosen)[:, 2])
    assert float(wanted.max()) < -5.0
    # Too deep and not deep enough by 4, where all that cross entropy has is likelihoods below 0.002.
    logits = torch.zeros(2, CLASSES, dtype=dtype)
    logits[:, 2] = wanted + torch.tensor([-4.0, 4.0]).double() + math.log(3.0)
    logits.requires_grad_()
    targets.loss(logits, chosen).backward()
    assert logits.grad is not None
    assert logits.grad.dtype == dtype
    pull = logits.grad[:, 2]
    assert float(pull[0]) < -0.05
    assert float(pull[1]) > 0.05
    # What is asked of one sample does not depend on which others are in the batch.
    swapped = torch.tensor([3, 7])
    torch.testing.assert_close(targets.loss(logits, chosen), targets.loss(logits.flip(0), swapped))
