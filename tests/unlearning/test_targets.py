"""Targets made of held-out data: which samples they contradict, how sure they are, and what training on them gives."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fgunlearn as fg
from fgunlearn.metrics import Outputs, losses_auc
from fgunlearn.seeding import seeded
from fgunlearn.unlearning.neighbours import NeighbourVotes, Place, telling_layer
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
    assert float(own.min()) > 1e-4  # nobody is asked for infinite logits


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

    last = Place("6", given=True)
    assert right(last, gone) > 0.5  # the last features follow the wrong labels
    assert right(place, gone) < 0.3
    assert right(place, data(UNSEEN, 6)) > 0.6


class Parts(nn.Module):
    """Each linear layer after the first is given its own four features."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.blind, self.weak, self.early, self.late = (nn.Linear(4, 4) for _ in range(4))
        nn.init.eye_(self.first.weight)
        nn.init.zeros_(self.first.bias)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.first(x).split(4, 1)
        layers = (self.blind, self.weak, self.early, self.late)
        return sum((layer(part) for layer, part in zip(layers, parts, strict=True)), torch.zeros(()))


def named(y: Tensor, shares: tuple[float, float, float, float]) -> list[tuple[Tensor, Tensor]]:
    """Samples that by the features of each layer in turn are of class y, this share of them, and else of the next."""
    at = torch.arange(len(y)) // CLASSES / (len(y) // CLASSES)
    parts = [F.one_hot(torch.where(at < share, y, (y + 1) % CLASSES), CLASSES).float() for share in shares]
    return batches(torch.cat(parts, 1), y)


@pytest.mark.parametrize(
    ("forget", "place"),
    [
        # Right on less of the forget data than of held-out data: wrong labels, which the last layer has memorised. Of
        # the two that have not, the one that tells more; what is never right on either tells nothing.
        ((0.0, 0.12, 0.2, 1.0), "early"),
        # As often right on both everywhere: where held-out data is told best.
        ((0.2, 0.6, 0.8, 1.0), "late"),
    ],
)
def test_the_layer_is_the_one_that_tells_most_of_those_that_have_not_memorised(
    forget: tuple[float, float, float, float], place: str
) -> None:
    y = torch.arange(400) % CLASSES
    model = Parts().train()
    loaders = named(y, forget), named(y, (1.0, 1.0, 1.0, 1.0)), named(y, (0.2, 0.6, 0.8, 1.0))
    assert telling_layer(model, *loaders, CLASSES, 10) == Place(place, given=True)
    assert all(module.training and not module._forward_pre_hooks for module in model.modules())


class TimeFirst(nn.Module):
    """A sequence model with time steps before samples inside, and a layer that is given one vector at first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inside, self.mixed, self.last = (nn.Linear(5, 5) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inside(self.first(x).transpose(0, 1)).mean(0)
        return self.last(self.mixed(torch.ones(5)) + self.mixed(hidden).relu())


def test_only_what_has_a_row_per_sample_is_looked_at() -> None:
    y = torch.arange(44) % 4
    with seeded(0):
        model, x = TimeFirst(), torch.randn(44, 4, 5)
    loader = batches(x, y)  # 4 time steps, and 4 samples in the last batch
    place = telling_layer(model, loader, loader, loader, 5, 3)
    assert place.layer in ("mixed", "last")
    for layer in (Place("mixed", given=True), Place("last", given=True)):
        votes, labels = NeighbourVotes(model, loader, 5, 1, layer)(loader)
        assert torch.equal(labels, y)
        assert float((votes.argmax(1) == y).float().mean()) > 0.8  # a sample's nearest is itself, but for ties
    with pytest.raises(ValueError, match="layer 'inside' has 4 rows for a batch of 20 samples"):
        NeighbourVotes(model, loader, 5, 3, "inside")
    with pytest.raises(ValueError, match=r"layer 'mixed' must return a tensor .*got \(5,\)"):
        NeighbourVotes(model, loader, 5, 3, "mixed")
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_a_model_with_no_layer_after_the_first_needs_one_named() -> None:
    part, kept, unseen = (batches(*data(n, seed)) for n, seed in ((20, 5), (60, 4), (40, 6)))
    for model, name in ((nn.Linear(22, 4), ""), (nn.Sequential(nn.Linear(22, 4)), "0")):
        arguments: dict[str, Any] = {"strategy": fg.RandomK(0.5), "heldout_loader": unseen}
        with pytest.raises(ValueError, match="name a module by neighbour_layer"):
            fg.unlearn(model, part, kept, repair=fg.Repair(epochs=1, forget="heldout"), **arguments)
        repair = fg.Repair(epochs=1, forget="heldout", neighbour_layer=name)
        assert fg.unlearn(model, part, kept, repair=repair, **arguments).record.forget_steps == 3


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


def test_targets_follow_the_model_and_what_was_missed_every_other_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, gone = overfitted(False)
    looks: list[tuple[int, int | None]] = []
    follow = Targets.follow

    def watched(self: Targets, heldout: Outputs, forget: Outputs | None = None) -> None:
        looks.append((len(heldout), None if forget is None else len(forget)))
        follow(self, heldout, forget)

    monkeypatch.setattr(Targets, "follow", watched)
    # 30 steps of 20 forget samples: 10 passes over 60.
    repair = fg.Repair(epochs=2, forget="heldout", forget_batch=20, neighbours=30)
    fg.unlearn(
        copy.deepcopy(model),
        batches(*gone),
        batches(*data(KEPT, 4)),
        strategy=fg.RandomK(0.5),
        repair=repair,
        heldout_loader=batches(*data(UNSEEN, 6)),
    )
    assert looks == [(UNSEEN, None)] + 5 * [(UNSEEN, GONE)]


@pytest.mark.parametrize("forgotten", [1, 2])
@pytest.mark.parametrize("unseen", [1, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_a_few_samples_are_enough_and_labels_may_be_bytes(forgotten: int, unseen: int, dtype: torch.dtype) -> None:
    model = copy.deepcopy(overfitted(False)[0])
    parts = [data(n, seed) for n, seed in ((forgotten, 5), (60, 4), (unseen, 6))]
    gone, kept, heldout = (batches(x, y.to(dtype)) for x, y in parts)
    heldout.append((torch.zeros(0, 22), torch.zeros(0, dtype=dtype)))
    result = fg.unlearn(
        model,
        gone,
        kept,
        strategy=fg.RandomK(0.5),
        repair=fg.Repair(epochs=1, forget="heldout"),
        heldout_loader=heldout,
    )
    assert result.record.forget_steps == 3


def test_heldout_data_without_a_sample_is_refused_before_anything_changes() -> None:
    model, gone = overfitted(False)
    before = copy.deepcopy(model.state_dict())
    nothing = [(torch.zeros(0, 22), torch.zeros(0, dtype=torch.int64))]
    for loader, error, words in (
        (nothing, ValueError, "heldout_loader has no sample"),
        ([], ValueError, "heldout_loader is empty"),
        (iter(batches(*gone)), TypeError, "heldout_loader must be an iterable that can be read again"),
        ([(gone[0], gone[1] + 4)], ValueError, "heldout_loader has the label"),
        ([(gone[0], gone[1].float())], TypeError, "from heldout_loader"),
    ):
        with pytest.raises(error, match=words):
            fg.unlearn(
                model,
                batches(*gone),
                batches(*data(KEPT, 4)),
                strategy=fg.RandomK(0.5),
                repair=fg.Repair(epochs=1, forget="heldout"),
                heldout_loader=loader,  # type: ignore[arg-type]
            )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
