"""Linear models with more features than samples, on random labels: all they know of a sample is that they saw it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fgunlearn.metrics import ShadowTraining, half_memberships, lira, train_shadows, u_lira

Batches = list[tuple[Tensor, Tensor]]

TRAINING = ShadowTraining(epochs=20, batch=16, lr=0.05)
ASKED, RETAIN, FEATURES = 40, 60, 100


def network() -> nn.Module:
    return nn.Linear(FEATURES, 2)


def in_batches(x: Tensor, y: Tensor) -> Batches:
    return list(zip(x.split(16), y.split(16), strict=True))


class Data:
    """Forget, test and retain samples, the first two as many, and models trained with and without the first."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2 * ASKED + RETAIN, FEATURES, generator=generator)
        y = torch.randint(2, (len(x),), generator=generator)
        self.forget, self.test, self.retain = (
            in_batches(*part)
            for part in zip(x.split([ASKED, ASKED, RETAIN]), y.split([ASKED, ASKED, RETAIN]), strict=True)
        )
        trained_on = torch.zeros(2, len(x), dtype=torch.bool)
        trained_on[0, :ASKED], trained_on[:, -RETAIN:] = True, True
        self.source, self.retrained = train_shadows(network, x, y, trained_on, TRAINING, seed=99)


@pytest.fixture(scope="module")
def data() -> Data:
    return Data()


def attack(model: nn.Module, data: Data, **options: Any) -> Any:
    options = {"retain_loader": data.retain, "training": TRAINING, "resamples": 200, "shadows": 12, **options}
    return lira(model, data.forget, data.test, network, **options)


@pytest.mark.parametrize("variant", ["online", "offline"])
def test_lira_tells_what_the_source_saw_and_not_what_the_retrained_model_did_not(data: Data, variant: str) -> None:
    of_source, of_retrained = (attack(model, data, variant=variant) for model in (data.source, data.retrained))
    assert of_source.auc.low > (0.75 if variant == "online" else 0.6)
    assert of_retrained.auc.low < 0.5 < of_retrained.auc.high
    assert (of_source.accuracy is None) == (variant == "offline")
    assert (len(of_source.forget_scores), len(of_source.other_scores)) == (ASKED, ASKED)


def test_lira_without_retain_data_trains_the_shadows_on_the_asked_samples(data: Data) -> None:
    alone = attack(data.source, data, retain_loader=None)
    assert alone.name == "lira"
    assert alone.auc.low > 0.6
    assert alone != attack(data.source, data)


def unlearned(method: Callable[..., nn.Module], model: nn.Module, data: Data) -> Any:
    options: dict[str, Any] = {"retain_loader": data.retain, "training": TRAINING, "resamples": 200, "shadows": 12}
    return u_lira(model, data.forget, data.test, network, method, **options)


def nothing(model: nn.Module, forget: Batches, retain: Batches) -> nn.Module:
    return model


def retraining(model: nn.Module, forget: Batches, retain: Batches) -> nn.Module:
    x, y = (torch.cat(part) for part in zip(*retain, strict=True))
    everybody = torch.ones(1, len(y), dtype=torch.bool)
    [found] = train_shadows(network, x, y, everybody, TRAINING, seed=len(forget[-1][1]))
    return found


def test_u_lira_catches_a_method_that_does_nothing(data: Data) -> None:
    found = unlearned(nothing, data.source, data)
    assert found.name == "u_lira"
    assert found.auc.low > 0.6
    assert found.accuracy > 0.65


def test_u_lira_finds_no_trace_where_unlearning_is_retraining(data: Data) -> None:
    found = unlearned(retraining, data.retrained, data)
    assert found.auc.low < 0.5 < found.auc.high
    assert found.accuracy == pytest.approx(0.5, abs=0.15)


def test_the_method_gets_each_shadow_with_its_half_and_the_retain_data(data: Data) -> None:
    asked = half_memberships(4, 2 * ASKED, seed=3)
    everything = torch.cat([x for x, _ in data.forget + data.test])
    seen: list[Tensor] = []

    def look(model: nn.Module, forget: Batches, retain: Batches) -> nn.Module:
        seen.append(torch.cat([x for x, _ in forget]))
        assert torch.cat([x for x, _ in retain]).equal(torch.cat([x for x, _ in data.retain]))
        assert [len(y) for _, y in retain] == [25, 25, 10]
        x, y = (torch.cat(part) for part in zip(*forget, strict=True))
        assert float((model(x).argmax(1) == y).double().mean()) > 0.9  # that it was trained on it
        return model

    u_lira(
        data.source,
        data.forget,
        data.test,
        network,
        look,
        retain_loader=data.retain,
        training=TRAINING,
        shadows=4,
        batch=25,
        resamples=5,
        seed=3,
    )
    assert len(seen) == 4
    assert all(x.equal(everything[chosen]) for x, chosen in zip(seen, asked, strict=True))


def test_the_model_attacked_stays_as_it_was(
    data: Data, state_of: Callable[[nn.Module], dict[str, Tensor]], assert_same: Callable[..., None]
) -> None:
    model = copy.deepcopy(data.source).train()
    before = state_of(model)
    attack(model, data, shadows=4, resamples=5)
    assert_same(before, state_of(model))


def test_one_seed_gives_one_answer(data: Data) -> None:
    short = {"training": ShadowTraining(epochs=2), "shadows": 4, "resamples": 20}
    assert attack(data.source, data, **short) == attack(data.source, data, **short)
    assert attack(data.source, data, **short) != attack(data.source, data, seed=1, **short)


def test_bad_arguments_are_refused(data: Data) -> None:
    with pytest.raises(ValueError, match="test_loader: the loader is empty"):
        lira(data.source, data.forget, [], network)
    with pytest.raises(TypeError, match="forget_loader: x must be a tensor, got dict"):
        lira(data.source, [({}, torch.tensor([0]))], data.test, network)
    with pytest.raises(ValueError, match="shadows must be even, got 5"):
        attack(data.source, data, shadows=5)
    with pytest.raises(ValueError, match="variant must be one of"):
        attack(data.source, data, variant="on line", shadows=2, training=ShadowTraining(epochs=1))
    with pytest.raises(ValueError, match="batch must be >= 1, got 0"):
        u_lira(data.source, data.forget, data.test, network, nothing, retain_loader=data.retain, batch=0)
    with pytest.raises(TypeError, match="unlearn must return a module, got NoneType"):
        u_lira(
            data.source,
            data.forget,
            data.test,
            network,
            lambda *_: None,  # type: ignore[arg-type,return-value]
            retain_loader=data.retain,
            shadows=2,
            training=ShadowTraining(epochs=1),
        )
