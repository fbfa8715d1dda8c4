"""Targets made of held-out data: which samples they contradict, how sure they are, and what training on them gives."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fgunlearn as fg
from fgunlearn.metrics import Outputs, losses_auc
from fgunlearn.seeding import seeded
from fgunlearn.unlearning.neighbours import NeighbourVotes, telling_layer
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
    assert targets.supported_share == pytest.approx(0.4 + 0.24**0.5 / 10)  # and a standard error
    wanted = targets.of(torch.arange(100))
    own = wanted.gather(1, source.labels[:, None]).squeeze(1)
    # Three quarters of those in doubt are right as well, 5 of 60.
    assert float((own[mislabelled] < 0.02).double().mean()) > 0.9
    other = wanted[mislabelled].argmax(1) == votes[mislabelled].argmax(1)
    assert float(other.double().mean()) > 0.9
    assert float((own[~mislabelled] > 0.3).double().mean()) > 0.8


def test_a_class_that_the_remaining_data_lacks_is_contradicted_and_says_nothing_of_unseen_data() -> None:
    source, heldout = outputs(100, 0, 1.0), outputs(300, 1, 0.8)
    source = Outputs(source.logits.scatter(1, torch.full((100, 1), 2), 9.0), torch.full((100,), 2))
    known = torch.tensor([True, True, False, True])
    votes = votes_for(source.labels, ~none(100))  # for class 3
    targets = Targets(source, votes, votes_for(heldout.labels, heldout.labels == 2), heldout.labels, known)
    targets.follow(heldout)
    assert targets.supported_share == 0.0
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


# Data with two features that tell the class and twenty that tell the sample.
KEPT, GONE, UNSEEN = 300, 60, 300


def data(n: int, seed: int, noise: float = 0.6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, CLASSES, (n,), generator=generator)
    centre = torch.stack([(y % 2).float() * 2 - 1, (y // 2).float() * 2 - 1], 1)
    return torch.cat([centre, torch.zeros(n, 20)], 1) + noise * torch.randn(n, 22, generator=generator), y


@functools.cache
def overfitted(mislabelled: bool) -> tuple[nn.Sequential, tuple[Tensor, Tensor]]:
    """A model that is right on all of its training data, of which the last part is to be forgotten; and that part."""
    x, y = data(GONE, 5)
    gone = (x, (y + 1) % CLASSES if mislabelled else y)
    x, y = (torch.cat(parts) for parts in zip(data(KEPT, 4), gone, strict=True))
    with seeded(0):
        model = nn.Sequential(
            nn.Linear(22, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)
        )
        optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
        for _ in range(200):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert float((model(x).argmax(1) == y).float().mean()) == 1.0
    return model.eval(), gone


def batches(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(20), y.split(20), strict=True))


def test_neighbours_are_asked_where_wrong_labels_have_not_been_memorised() -> None:
    model, gone = overfitted(True)
    loaders = [batches(*part) for part in (gone, data(KEPT, 4), data(UNSEEN, 6))]
    place = telling_layer(model, *loaders, CLASSES, 10)

    def right(layer: Any, part: tuple[Tensor, Tensor]) -> float:
        votes, labels = NeighbourVotes(model, loaders[1], CLASSES, 10, layer)(batches(*part))
        return float((votes.argmax(1) == labels).float().mean())

    last = type(place)("6", given=True)
    assert right(last, gone) > 0.5  # the last features follow the wrong labels
    assert right(place, gone) < 0.3
    assert right(place, data(UNSEEN, 6)) > 0.6


def unlearned(forget: str, mislabelled: bool) -> tuple[nn.Module, fg.Result]:
    model, gone = overfitted(mislabelled)
    model = copy.deepcopy(model)
    result = fg.unlearn(
        model,
        batches(*gone),
        batches(*data(KEPT, 4)),
        strategy=fg.RandomK(0.7),
        repair=fg.Repair(epochs=12, lr=0.05, schedule="linear", forget=forget, neighbours=30),  # type: ignore[arg-type]
        heldout_loader=batches(*data(UNSEEN, 6)),
    )
    return model, result


def seen(model: nn.Module, part: tuple[Tensor, Tensor]) -> Outputs:
    return Outputs.of(model, batches(*part))


def test_a_forgotten_part_looks_like_data_never_seen_and_the_rest_is_kept() -> None:
    source, gone = overfitted(False)
    model, result = unlearned("heldout", False)
    unseen = seen(model, data(UNSEEN, 7))
    assert losses_auc(seen(source, gone).losses, seen(source, data(UNSEEN, 7)).losses) > 0.6
    assert abs(losses_auc(seen(model, gone).losses, unseen.losses) - 0.5) < 0.06
    assert abs(seen(model, gone).accuracy - unseen.accuracy) < 0.1
    assert seen(model, data(KEPT, 4)).accuracy > 0.97
    assert unseen.accuracy > seen(source, data(UNSEEN, 7)).accuracy - 0.05
    assert result.record.forget_steps == result.record.steps  # it holds samples back to the end


def test_wrong_labels_are_forgotten_and_the_right_ones_come_back() -> None:
    source, (x, wrong) = overfitted(True)
    model, _ = unlearned("heldout", True)
    right = (x, (wrong - 1) % CLASSES)
    assert seen(model, (x, wrong)).accuracy < 0.3
    assert seen(model, right).accuracy > seen(source, right).accuracy + 0.5
    assert seen(model, data(UNSEEN, 7)).accuracy > seen(source, data(UNSEEN, 7)).accuracy


def test_without_heldout_data_that_says_something_it_is_refused() -> None:
    model, gone = overfitted(False)
    before = copy.deepcopy(model.state_dict())
    x, y = data(KEPT, 4)
    repair = fg.Repair(epochs=1, forget="heldout")
    with pytest.raises(ValueError, match="forget='heldout' needs heldout_loader"):
        fg.unlearn(model, batches(*gone), batches(x, y), strategy=fg.RandomK(0.5), repair=repair)
    lacking = batches(x[y != 1], y[y != 1])
    only = batches(x[y == 1], y[y == 1])
    with pytest.raises(ValueError, match="heldout_loader has no sample of a class that the remaining data has"):
        fg.unlearn(
            model, batches(*gone), lacking, strategy=fg.RandomK(0.5), repair=repair, heldout_loader=only
        )  # fmt: skip
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
