"""retrain, finetune, gradient_ascent, neggrad_plus, l1_sparse against their definitions written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fgunlearn as fg
from small_mlp import assert_close, cut, distance, gone, kept, loss_on, mlp, samples, sgd_by_hand, source


def test_finetune_is_sgd_on_the_remaining_data() -> None:
    model, expected = source(), source()
    fg.methods.finetune(model, [], kept(), epochs=2, lr=0.05, momentum=0.8, weight_decay=0.01)
    losses = [loss_on(x, y) for x, y in kept()] * 2
    sgd_by_hand(expected, losses, [0.05] * 8, momentum=0.8, weight_decay=0.01)
    assert_close(model, expected)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("linear", [7 / 8, 5 / 8, 3 / 8, 1 / 8]),
        ("cosine", [0.5 + 0.5 * math.cos(math.pi * t / 8) for t in (1, 3, 5, 7)]),
        ("onecycle", [1 / 4, 3 / 4, 3 / 4, 1 / 4]),
    ],
)
def test_the_learning_rate_is_the_schedules_in_the_middle_of_each_step(schedule: Any, factors: list[float]) -> None:
    model, expected = source(), source()
    result = fg.methods.finetune(model, [], kept(), epochs=1, lr=0.05, weight_decay=0.0, schedule=schedule, warmup=0.5)
    sgd_by_hand(expected, [loss_on(x, y) for x, y in kept()], [0.05 * factor for factor in factors])
    assert_close(model, expected)
    assert result.record.history[0]["learning_rate"] == pytest.approx(0.05 * factors[-1])


def test_gradient_ascent_is_sgd_on_minus_the_loss_of_the_forget_data() -> None:
    model, expected = source(), source()
    result = fg.methods.gradient_ascent(model, gone(), [], epochs=2, lr=0.05, weight_decay=0.01)
    ascent = [lambda m, x=x, y=y: -loss_on(x, y)(m) for x, y in gone()]
    sgd_by_hand(expected, ascent * 2, [0.05] * 4, weight_decay=0.01)
    assert_close(model, expected)
    first, second = result.record.history
    assert first["retain_loss"] is None
    assert second["forget_loss"] < first["forget_loss"] < 0  # what is minimised: minus the loss


def test_neggrad_plus_weighs_both_losses_in_one_step_and_starts_the_forget_data_over() -> None:
    model, expected = source(), source()
    result = fg.methods.neggrad_plus(model, gone(), kept(), beta=0.7, epochs=1, lr=0.05, weight_decay=0.01)
    pairs = zip(kept(), gone() * 2, strict=True)
    joint = [lambda m, r=r, u=u: 0.7 * loss_on(*r)(m) - 0.3 * loss_on(*u)(m) for r, u in pairs]
    sgd_by_hand(expected, joint, [0.05] * 4, weight_decay=0.01)
    assert_close(model, expected)
    assert result.record.steps == result.record.forget_steps == 4
    assert result.record.samples == 20 + 24


def test_neggrad_plus_goes_on_in_the_forget_data_where_the_last_epoch_stopped() -> None:
    three = cut(*samples(18, 3))
    model, expected = source(), source()
    fg.methods.neggrad_plus(model, three, kept()[:2], beta=0.5, epochs=2, lr=0.05, weight_decay=0.0)
    pairs = zip(kept()[:2] * 2, [*three, three[0]], strict=True)
    joint = [lambda m, r=r, u=u: 0.5 * loss_on(*r)(m) - 0.5 * loss_on(*u)(m) for r, u in pairs]
    sgd_by_hand(expected, joint, [0.05] * 4)
    assert_close(model, expected)


def test_l1_sparse_has_a_penalty_that_falls_to_nothing() -> None:
    model, expected = source(), source()
    fg.methods.l1_sparse(model, [], kept(), gamma=0.02, epochs=1, lr=0.05, weight_decay=0.0)

    def penalised(x: Tensor, y: Tensor, gamma: float) -> Callable[[nn.Module], Tensor]:
        return lambda m: loss_on(x, y)(m) + gamma * sum(p.abs().sum() for p in m.parameters())

    losses = [penalised(x, y, 0.02 * (1 - step / 4)) for step, (x, y) in enumerate(kept())]
    sgd_by_hand(expected, losses, [0.05] * 4)
    assert_close(model, expected)
    first = fg.methods.l1_sparse(source(), [], kept()[:1], gamma=0.02, epochs=1, lr=0.05)
    plain = float(loss_on(*kept()[0])(source()).detach())
    assert first.record.history[0]["retain_loss"] == pytest.approx(plain)


def test_retrain_starts_from_the_new_models_weights_under_the_seed() -> None:
    model = source()
    fg.methods.retrain(
        model, [], kept(), new_model=mlp, seed=5, epochs=1, lr=0.1, warmup=0.5, weight_decay=0.01, nesterov=True
    )
    torch.manual_seed(5)
    expected = mlp()
    lrs = [0.1 * factor for factor in (1 / 4, 3 / 4, 3 / 4, 1 / 4)]
    sgd_by_hand(expected, [loss_on(x, y) for x, y in kept()], lrs, weight_decay=0.01, nesterov=True)
    assert_close(model, expected)


def test_retrain_resets_the_layers_last_first_where_it_gets_no_new_model() -> None:
    model = source()
    fg.methods.retrain(model, [], kept(), seed=5, epochs=1, lr=0.1, schedule="constant", nesterov=False, momentum=0.0)
    torch.manual_seed(5)
    last = nn.Linear(8, 3, dtype=torch.float64)
    expected = nn.Sequential(nn.Linear(4, 8, dtype=torch.float64), nn.Tanh(), last)
    sgd_by_hand(expected, [loss_on(x, y) for x, y in kept()], [0.1] * 4, momentum=0.0, weight_decay=5e-4)
    assert_close(model, expected)


def test_retrain_forgets_statistics_leaves_frozen_weights_and_torchs_seed_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    model[0].requires_grad_(False)
    model[1].running_mean.fill_(1e6)
    frozen = model[0].weight.clone()
    data = [(x.float(), y) for x, y in kept()]
    generator = torch.get_rng_state()
    result = fg.methods.retrain(model, [], data, epochs=1, seed=1)
    assert torch.equal(generator, torch.get_rng_state())
    assert torch.equal(model[0].weight, frozen)
    assert float(model[1].running_mean.abs().max()) < 10
    assert result.buffers == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert set(result.seconds) == {"initialise", "train"}


def test_retrain_lets_an_attention_layer_have_the_last_say_about_its_parts() -> None:
    from fgunlearn.methods.fresh import fresh

    layer = nn.MultiheadAttention(8, 2)
    with torch.no_grad():
        layer.out_proj.bias.fill_(3.0)
    assert not fresh(layer, None, 0).parameters["out_proj.bias"].any()


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.ones(4, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.by


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"new_model": mlp()}, None, None),
        ({"new_model": 3}, TypeError, "new_model must be a function .* got 3"),
        ({"new_model": lambda: "x"}, TypeError, "must return a torch.nn.Module, got str"),
        ({"new_model": lambda: nn.Linear(4, 3)}, ValueError, "has no parameter '0.weight'"),
        ({"new_model": lambda: nn.Sequential(nn.Linear(4, 9))}, ValueError, r"'0.weight' has shape \(8, 4\)"),
    ],
)
def test_retrain_refuses_another_architecture(changed: Any, error: Any, words: Any) -> None:
    model = source()
    if error is None:  # a module can be called, but with nothing to work on
        error, words = TypeError, "input"
    with pytest.raises(error, match=words):
        fg.methods.retrain(model, [], kept(), **changed)
    assert distance(model, source()) == 0


def test_retrain_names_a_layer_that_it_can_not_reset() -> None:
    model = nn.Sequential(Scale(), mlp())
    with pytest.raises(ValueError, match=r"'0', a Scale, has parameters .* give new_model"):
        fg.methods.retrain(model, [], kept())
    fg.methods.retrain(model, [], kept(), new_model=lambda: nn.Sequential(Scale(), mlp()), epochs=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_penalty_of_many_weights_is_finite_in_half_precision(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3)).to(dtype)
    with torch.no_grad():
        model.register_parameter("many", nn.Parameter(torch.full((70_000,), 2.0, dtype=dtype)))
    data = [(x.to(dtype), y) for x, y in kept()]
    options: dict[str, Any] = {"epochs": 1, "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    fg.methods.l1_sparse(model, [], data, gamma=0.5, **options)
    # No loss depends on it: minus lr * gamma at every step, which fades over the four.
    expected = 2.0 - 0.1 * 0.5 * (1 + 0.75 + 0.5 + 0.25)
    assert model.many.dtype == dtype
    assert float(model.many.detach().float().mean()) == pytest.approx(expected, abs=0.02)


def test_the_penalty_adds_up_tensors_of_different_precision() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    model.register_parameter("wide", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    model.register_parameter("narrow", nn.Parameter(torch.ones(2, dtype=torch.float16)))
    data = [(x.float(), y) for x, y in kept()]
    fg.methods.l1_sparse(model, [], data, gamma=0.5, epochs=1, lr=0.1)
    assert float(model.wide.detach().max()) < 1
    assert float(model.narrow.detach().max()) < 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_moves_every_parameter_in_every_precision(dtype: torch.dtype, momentum: float) -> None:
    model = nn.Sequential(nn.Linear(4, 500), nn.Linear(500, 3)).to(dtype)
    before = [p.detach().clone() for p in model.parameters()]
    data = [(x.to(dtype), y) for x, y in kept()[:1]]
    # At lr * weight_decay = 1/4, all but zeros move by a quarter and a gradient.
    fg.methods.finetune(model, [], data, epochs=1, lr=0.5, momentum=momentum, weight_decay=0.5)
    for p, was in zip(model.parameters(), before, strict=True):
        assert float((p.detach() != was).double().mean()) > 0.99
