from __future__ import annotations

import copy
import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fgunlearn.experiment.data import Batches
from fgunlearn.experiment.tune.criterion import PARTS, Expected
from fgunlearn.metrics import Outputs, membership_auc

CLASSES = 4


def outputs(right: Tensor, labels: Tensor, sure: Tensor | float = 3.0) -> Outputs:
    """Of a model that is right there, with a margin of ``sure``, and says the next class elsewhere."""
    said = torch.where(right, labels, (labels + 1) % CLASSES)
    return Outputs(F.one_hot(said, CLASSES) * torch.as_tensor(sure, dtype=torch.float64).reshape(-1, 1), labels)


def votes(right: Tensor, labels: Tensor) -> Tensor:
    said = torch.where(right, labels, (labels + 1) % CLASSES)
    return 0.8 * F.one_hot(said, CLASSES).float() + 0.05


def first(share: float, count: int) -> Tensor:
    return torch.arange(count) < round(share * count)


def cycled(count: int) -> Tensor:
    return torch.arange(count) % CLASSES


def expected(
    *, forget: Tensor, agree: float, heldout_agree: float = 1.0, accuracy: float = 1.0, kept: Tensor | None = None
) -> Expected:
    """From 400 held-out samples, a source of that accuracy on them, and forget labels that so many votes agree with."""
    labels = cycled(400)
    source = {
        "forget": outputs(first(1.0, len(forget)), forget),
        "retain": outputs(first(1.0, 300), cycled(300) if kept is None else kept),
        "heldout": outputs(first(accuracy, 400), labels),
    }
    return Expected.from_votes(
        source, votes(first(agree, len(forget)), forget), votes(first(heldout_agree, 400), labels)
    )


def test_labels_that_hold_are_expected_to_be_met_as_those_of_held_out_data() -> None:
    found = expected(forget=cycled(200), agree=0.8, heldout_agree=0.8, accuracy=0.9)
    assert (found.held, found.forget, found.heldout) == (1.0, 0.9, 0.9)
    assert found.membership == pytest.approx(0.5)
    # Hanley and McNeil's error at 0.5 is Mann and Whitney's.
    assert found.membership_error == pytest.approx(math.sqrt((200 + 400 + 1) / (12 * 200 * 400)))


def test_a_source_with_wrong_labels_is_outdone_by_the_votes() -> None:
    assert expected(forget=cycled(200), agree=0.0, heldout_agree=0.95, accuracy=0.9).heldout == 0.95


@pytest.mark.parametrize("held", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("heldout_agree", [0.7, 1.0])
def test_the_share_of_labels_that_hold_is_recovered(held: float, heldout_agree: float) -> None:
    chance = (1.0 - heldout_agree) / (CLASSES - 1)
    agree = held * heldout_agree + (1.0 - held) * chance
    found = expected(forget=cycled(2000), agree=agree, heldout_agree=heldout_agree, accuracy=0.97)
    assert found.held == pytest.approx(held, abs=1e-3)
    accuracy = max(heldout_agree, 0.97)
    assert found.forget == pytest.approx(held * accuracy + (1 - held) * (1 - accuracy) / 3, abs=1e-3)


def test_a_class_that_nothing_remains_of_is_never_right_and_left_out_of_the_held_out_data() -> None:
    kept = cycled(400)
    found = expected(forget=torch.full((50,), 3), agree=0.0, accuracy=0.75, heldout_agree=0.5, kept=kept[kept != 3])
    assert (found.forget, found.membership, found.forget_error, found.membership_error) == (0.0, 0.0, 0.0, 0.0)
    assert found.known.tolist() == (kept != 3).tolist()


def test_a_class_beside_a_random_part_counts_by_its_share() -> None:
    kept = cycled(400)
    forget = torch.cat([torch.full((100,), 3), torch.zeros(100, dtype=torch.int64)])
    labels = cycled(400)
    source = {
        "forget": outputs(first(1.0, 200), forget),
        "retain": outputs(first(1.0, 300), kept[kept != 3]),
        "heldout": outputs(first(1.0, 400), labels),
    }
    found = Expected.from_votes(
        source, votes(torch.ones(200, dtype=torch.bool), forget), votes(first(1.0, 400), labels)
    )
    assert (found.forget, found.membership, found.held) == (0.5, 0.25, 1.0)


def test_few_disagreeing_votes_are_chance() -> None:
    assert expected(forget=cycled(20), agree=0.95, heldout_agree=0.98).held == 1.0
    assert expected(forget=cycled(2000), agree=0.95, heldout_agree=0.98).held < 1.0


def test_held_out_data_without_a_remaining_class_is_refused() -> None:
    labels = torch.zeros(8, dtype=torch.int64)
    source = {part: outputs(first(1.0, 8), labels) for part in PARTS}
    source["heldout"] = outputs(first(1.0, 8), labels + 1)
    with pytest.raises(ValueError, match="heldout has no sample of a class that remains"):
        Expected.from_votes(source, votes(first(1.0, 8), labels), votes(first(1.0, 8), labels + 1))


@settings(max_examples=30, deadline=None)
@given(
    agree=st.floats(0, 1),
    heldout_agree=st.floats(0, 1),
    forget=st.floats(0, 1),
    retain=st.floats(0, 1),
    heldout=st.floats(0, 1),
)
def test_the_criterion_is_the_mean_of_its_parts_and_between_0_and_100(
    agree: float, heldout_agree: float, forget: float, retain: float, heldout: float
) -> None:
    expects = expected(forget=cycled(80), agree=agree, heldout_agree=heldout_agree, accuracy=0.9)
    assert 0.0 <= expects.forget <= 1.0
    assert 0.0 <= expects.membership <= 1.0
    seen = {
        "forget": outputs(first(forget, 80), cycled(80)),
        "retain": outputs(first(retain, 400), cycled(400)),
        "heldout": outputs(first(heldout, 400), cycled(400)),
    }
    found = expects.judge(seen)
    parts = (found.forget, found.retain, found.heldout, found.membership)
    assert all(0.0 <= part <= 100.0 for part in parts)
    assert found.points == pytest.approx(sum(parts) / 4)
    assert found.retain == pytest.approx(100.0 * (1.0 - round(retain * 400) / 400))


def test_a_model_that_does_better_on_the_other_data_pays_nothing_for_it() -> None:
    expects = expected(forget=cycled(200), agree=0.8, heldout_agree=0.8, accuracy=0.9)
    seen = {
        "forget": outputs(first(0.9, 200), cycled(200)),
        "retain": outputs(first(1.0, 400), cycled(400)),
        "heldout": outputs(first(1.0, 400), cycled(400)),
    }
    found = expects.judge(seen)
    assert (found.forget, found.retain, found.heldout) == (0.0, 0.0, 0.0)


class Trained(NamedTuple):
    source: nn.Module
    retrained: nn.Module
    forget: Batches
    retain: Batches
    heldout: Batches


def clusters(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Classes that overlap: what is left to learn about a training sample is to memorise it."""
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    return 1.2 * F.one_hot(labels, 12).float() + 0.5 * torch.randn(count, 12, generator=generator), labels


def trained(x: Tensor, y: Tensor, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, CLASSES))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(250):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def over_forgotten(model: nn.Module, x: Tensor, y: Tensor, expected_accuracy: float) -> nn.Module:
    """Ascent on D_u until it is far less right there than it should be, or where that is 0, until D_r has suffered."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    for _ in range(200):
        if float((model(x).argmax(1) == y).float().mean()) < expected_accuracy - 0.25:
            break
        optimizer.zero_grad()
        (-F.cross_entropy(model(x), y).clamp(max=50.0)).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module", params=["random", "class", "mislabel"])
def models(request: pytest.FixtureRequest) -> Trained:
    generator = torch.Generator().manual_seed(3)
    x, y = clusters(600, generator)
    heldout = clusters(400, generator)
    chosen = y == 2 if request.param == "class" else torch.arange(600) < 150
    if request.param == "mislabel":
        y = torch.where(chosen, (y + torch.randint(1, CLASSES, y.shape, generator=generator)) % CLASSES, y)
    loaders = (Batches(x[part], y[part], 64) for part in (chosen, ~chosen))
    return Trained(trained(x, y, 0), trained(x[~chosen], y[~chosen], 1), *loaders, Batches(*heldout, 64))


def test_a_retrained_model_ranks_before_the_source_and_an_over_forgotten_one(models: Trained) -> None:
    loaders = dict(zip(PARTS, (models.forget, models.retain, models.heldout), strict=True))
    expects = Expected.of(models.source, *loaders.values())
    x, y = (torch.cat(part) for part in zip(*models.forget, strict=True))
    gone = over_forgotten(models.source, x, y, expects.forget)

    def points(model: nn.Module) -> float:
        return expects.judge({part: Outputs.of(model, loader) for part, loader in loaders.items()}).points

    assert points(models.retrained) < 3.0
    assert points(models.source) > points(models.retrained) + 2.0
    assert points(gone) > points(models.retrained) + 2.0


def test_what_is_expected_is_near_what_a_retrained_model_shows(models: Trained) -> None:
    expects = Expected.of(models.source, models.forget, models.retain, models.heldout)
    assert expects.forget == pytest.approx(Outputs.of(models.retrained, models.forget).accuracy, abs=0.08)
    heldout = [(x[y != 2], y[y != 2]) for x, y in models.heldout] if expects.forget == 0 else models.heldout
    assert expects.membership == pytest.approx(membership_auc(models.retrained, models.forget, heldout), abs=0.08)


def test_a_layer_that_the_model_does_not_have_is_refused(models: Trained) -> None:
    with pytest.raises(ValueError, match="neighbour_layer must name a module of the model, got 'stem'"):
        Expected.of(models.source, models.forget, models.retain, models.heldout, layer="stem")
