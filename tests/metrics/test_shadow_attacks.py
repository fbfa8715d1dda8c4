"""Linear models with more features than samples, on random labels: all they know of a sample is that they saw it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fgunlearn as fg
from fgunlearn.metrics import (
    ShadowTraining,
    attack_of,
    half_memberships,
    lira,
    lira_scores,
    log_odds_of,
    train_shadows,
    u_lira,
    u_lira_scores,
)

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


class Made:
    """Makes models, and keeps them: shadows are trained in place, so they can be looked at afterwards."""

    def __init__(self, model: Callable[[], nn.Module] = network) -> None:
        self.models: list[nn.Module] = []
        self.untrained: list[nn.Module] = []
        self._model = model

    def __call__(self) -> nn.Module:
        self.models.append(self._model())
        self.untrained.append(copy.deepcopy(self.models[-1]))
        return self.models[-1]


def share_right(models: list[nn.Module], batches: Batches) -> float:
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    return sum(float((model(x).argmax(1) == y).double().mean()) for model in models) / len(models)


@pytest.mark.parametrize("variance", ["global", "sample"])
def test_u_lira_holds_what_unlearn_returns_against_models_that_know_the_retain_data_alone(
    data: Data, variance: Any
) -> None:
    new_model = Made()
    unlearned: list[nn.Module] = []

    def blurred(model: nn.Module, forget: Batches, retain: Batches) -> nn.Module:
        unlearned.append(copy.deepcopy(model))
        with torch.no_grad():
            for parameter in unlearned[-1].parameters():
                parameter.mul_(0.9)
        return unlearned[-1]

    found = u_lira(
        data.source,
        data.forget,
        data.test,
        new_model,
        blurred,
        retain_loader=data.retain,
        training=TRAINING,
        shadows=6,
        variance=variance,
        resamples=5,
        seed=3,
    )
    assert len(new_model.models) == 12
    trained, retrained = new_model.models[:6], new_model.models[6:]
    for kind in (trained, retrained):
        assert share_right(kind, data.retain) == 1.0
    asked = data.forget + data.test
    assert 0.7 < share_right(trained, asked) < 0.8  # all of their half, and of the other what chance gets right
    assert 0.4 < share_right(retrained, asked) < 0.6
    x, y = (torch.cat(part) for part in zip(*asked, strict=True))
    expected = u_lira_scores(
        log_odds_of([data.source], x, y)[0],
        log_odds_of(unlearned, x, y),
        log_odds_of(retrained, x, y),
        memberships=half_memberships(6, len(y), seed=3),
        variance=variance,
    )
    torch.testing.assert_close(torch.cat([found.forget_scores, found.other_scores]), expected)
    assert found == attack_of("u_lira", *expected.split(ASKED), 0.0, resamples=5, seed=3)
    untrained = torch.stack([model.state_dict()["weight"] for model in new_model.untrained])
    assert len(untrained.unique(dim=0)) == 12  # of 12 seeds


@pytest.mark.parametrize("variant", ["online", "offline"])
@pytest.mark.parametrize("variance", ["global", "sample"])
def test_lira_holds_the_model_against_the_shadows_of_either_half(data: Data, variant: Any, variance: Any) -> None:
    new_model = Made()
    found = lira(
        data.source,
        data.forget,
        data.test,
        new_model,
        training=TRAINING,
        shadows=6,
        variant=variant,
        variance=variance,
        resamples=5,
        seed=3,
    )
    x, y = (torch.cat(part) for part in zip(*data.forget, *data.test, strict=True))
    asked = half_memberships(6, len(y), seed=3)
    expected = lira_scores(
        log_odds_of([data.source], x, y)[0],
        log_odds_of(new_model.models, x, y),
        asked,
        variant=variant,
        variance=variance,
    )
    threshold = 0.0 if variant == "online" else None
    assert found == attack_of("lira", *expected.split(ASKED), threshold, resamples=5, seed=3)
    for shadow, seen in zip(new_model.models, asked, strict=True):
        right = shadow(x).argmax(1) == y
        assert bool(right[seen].all())
        assert not bool(right[~seen].all())


@pytest.mark.parametrize("batched", [True, False])
def test_each_kind_of_shadow_makes_the_steps_that_its_own_samples_ask_for(data: Data, batched: bool) -> None:
    new_model = Made(lambda: nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, 2)))
    u_lira(
        data.source,
        data.forget,
        data.test,
        new_model,
        nothing,
        retain_loader=data.retain,
        training=ShadowTraining(epochs=4, batch=20),
        shadows=4,
        resamples=5,
        batched=batched,
    )
    steps = [int(model.state_dict()["0.num_batches_tracked"]) for model in new_model.models]
    assert steps == [4 * (ASKED + RETAIN) // 20] * 4 + [4 * RETAIN // 20] * 4


def test_an_unlearn_that_returns_one_module_again_and_again_is_looked_at_each_time(data: Data) -> None:
    holder = network()

    def into_holder(model: nn.Module, forget: Batches, retain: Batches) -> nn.Module:
        holder.load_state_dict(model.state_dict())
        return holder

    first, second = (unlearned(method, data.source, data) for method in (nothing, into_holder))
    assert first.forget_scores.equal(second.forget_scores)


def test_it_is_called_with_any_of_the_methods(data: Data) -> None:
    def method(model: nn.Module, forget: Batches, retain: Batches) -> nn.Module:
        fg.methods.finetune(model, forget, retain, epochs=1, lr=0.01)
        return model

    model = method(copy.deepcopy(data.source), data.forget, data.retain)
    assert 0.0 <= unlearned(method, model, data).auc.value <= 1.0


def not_called() -> nn.Module:
    raise AssertionError("a model was made to be trained")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"variance": "globl"}, ValueError, "variance must be one of .* did you mean 'global'"),
        ({"shadows": 5}, ValueError, "shadows must be even, got 5"),
        ({"shadows": 2}, ValueError, "shadows must be >= 4, got 2"),
        ({"shadows": 4.0}, TypeError, r"shadows must be an int, got 4\.0"),
        ({"training": {"epochs": 3}}, TypeError, "training must be a ShadowTraining, got {'epochs': 3}"),
        ({"resamples": 0}, ValueError, "resamples must be >= 1, got 0"),
        ({"resamples": "many"}, TypeError, "resamples must be an int, got 'many'"),
        ({"seed": 2**63}, ValueError, "seed must fit in 64 bits, got 9223372036854775808"),
        ({"seed": None}, TypeError, "seed must be an int, got None"),
        ({"batched": "yes"}, ValueError, "batched must be one of None, True, False, got 'yes'"),
        ({"forget_loader": []}, ValueError, "forget_loader: the loader is empty"),
        ({"test_loader": []}, ValueError, "test_loader: the loader is empty"),
        ({"retain_loader": []}, ValueError, "retain_loader: the loader is empty"),
        ({"forget_loader": [({}, torch.tensor([0]))]}, TypeError, "forget_loader: x must be a tensor, got dict"),
        (
            {"test_loader": [(torch.randn(2, 99), torch.tensor([0, 1]))]},
            ValueError,
            r"test_loader: samples must be like those of forget_loader, .* shape \(100,\), got .* shape \(99,\)",
        ),
        (
            {"retain_loader": [(torch.randn(n, 90 + n), torch.zeros(n, dtype=torch.long)) for n in (9, 10)]},
            ValueError,
            r"retain_loader: samples must be of one shape, .* got \(99,\) and \(100,\)",
        ),
        (
            {"retain_loader": [(torch.randn(2, 100), torch.tensor([[0], [1]]))]},
            ValueError,
            r"retain_loader: a batch must be x of shape .* got \(2, 100\) and \(2, 1\)",
        ),
        (
            {"retain_loader": [(torch.randn(2, 100), torch.tensor([0, 2]))]},
            ValueError,
            r"retain_loader: labels must be in \[0, 1\], got 0 to 2",
        ),
        (
            {"test_loader": [(torch.randn(2, 100), torch.tensor([-100, 1]))]},
            ValueError,
            r"test_loader: labels must be in \[0, 1\], got -100 to 1",
        ),
        (
            {"forget_loader": [(torch.randn(2, 100), torch.tensor([0.0, 1.0]))]},
            ValueError,
            r"forget_loader: labels must be integers .* torch\.float32",
        ),
        ({"model": nn.Unflatten(1, (10, 10))}, ValueError, r"forget_loader: model must return logits"),
        ({"new_model": network()}, TypeError, "new_model must be a function .* got an object of type Linear"),
    ],
)
@pytest.mark.parametrize("metric", [lira, u_lira])
def test_bad_arguments_are_refused_before_a_model_is_made(
    metric: Callable[..., Any],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
    data: Data,
) -> None:
    given = {
        "model": data.source,
        "forget_loader": data.forget,
        "test_loader": data.test,
        "retain_loader": data.retain,
        "new_model": not_called,
        **({"unlearn": nothing} if metric is u_lira else {}),
        **options,
    }
    with pytest.raises(error, match=message):
        metric(**given)


def test_what_only_one_of_the_two_takes_is_refused_before_a_model_is_made(data: Data) -> None:
    with pytest.raises(ValueError, match="variant must be one of 'online', 'offline', got 'on line'"):
        lira(data.source, data.forget, data.test, not_called, variant="on line")  # type: ignore[arg-type]

    def refused(error: type[Exception], message: str, unlearn: Any = nothing, **options: Any) -> None:
        options = {"forget_loader": data.forget, "retain_loader": data.retain, **options}
        with pytest.raises(error, match=message):
            u_lira(data.source, test_loader=data.test, new_model=not_called, unlearn=unlearn, **options)

    refused(ValueError, "batch must be >= 1, got 0", batch=0)
    refused(TypeError, r"batch must be an int, got 2\.5", batch=2.5)
    refused(TypeError, "unlearn must be a function .* got str", unlearn="finetune")
    refused(TypeError, "unlearn must be a function .* got Linear", unlearn=network())
    refused(TypeError, "retain_loader must be a loader.* got None", retain_loader=None)
    one = [(x[:1], y[:1]) for x, y in data.forget[:1]]
    with pytest.raises(ValueError, match=r"hold 2 samples together, too few for 16 shadows: number \d+ would"):
        u_lira(data.source, one, one, not_called, nothing, retain_loader=data.retain)


def test_an_unlearn_that_fails_is_told_at_the_first_shadow_and_before_the_retrained_are_made(data: Data) -> None:
    def refused(error: type[Exception], message: str, unlearn: Any) -> None:
        new_model = Made()
        with pytest.raises(error, match=message):
            u_lira(
                data.source,
                data.forget,
                data.test,
                new_model,
                unlearn,
                retain_loader=data.retain,
                shadows=4,
                training=ShadowTraining(epochs=1),
            )
        assert len(new_model.models) == 4

    def diverging(model: nn.Module, forget: Batches, retain: Batches) -> nn.Module:
        model.bias.data.fill_(torch.nan)  # type: ignore[union-attr,operator]
        return model

    refused(TypeError, "unlearn must return a module, got NoneType", lambda *_: None)
    refused(ValueError, "unlearn, of shadow model 0: logits hold .* the model has diverged", diverging)
