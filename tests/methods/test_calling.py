"""What holds for every method."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fgunlearn as fg
from fgunlearn import ops
from method_calls import DESCENTS, NAMES, STEPS, call
from small_mlp import distance, gone, kept, samples, source

READS_FORGET = [name for name in NAMES if name not in ("retrain", "finetune", "l1_sparse", "fisher_forget")]
READS_RETAIN = [name for name in NAMES if name != "gradient_ascent"]


def test_the_list_has_every_method_and_get_finds_it() -> None:
    assert fg.methods.list() == NAMES
    assert all(fg.methods.get(name) is getattr(fg.methods, name) for name in NAMES)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("scrubb", "'scrubb': did you mean 'scrub'"),
        ("NegGrad-plus", "'NegGrad-plus': did you mean 'neggrad_plus'"),
        ("amnesia", "'amnesia': there are retrain, finetune, .*, random_topk"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fg.methods.get(name)
    with pytest.raises(TypeError, match="name must be a string, got 3"):
        fg.methods.get(3)  # type: ignore[arg-type]


def test_a_list_of_names_is_the_callers_own() -> None:
    fg.methods.list().clear()
    assert fg.methods.list() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_all_are_called_alike(name: str) -> None:
    parameters = inspect.signature(fg.methods.get(name)).parameters
    positional = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == ["model", "forget_loader", "retain_loader"]
    last = list(parameters.values())[-5:]
    assert [(p.name, p.default) for p in last] == [
        ("loss_fn", None), ("heldout_loader", None), ("seed", 0), ("progress", False), ("checkpoint", None)
    ]  # fmt: skip
    assert all(p.default is not p.empty for p in parameters.values() if p.kind is p.KEYWORD_ONLY)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_changes_in_place_and_the_result_says_how(name: str) -> None:
    model = source()
    result = call(name, model)
    assert result.model is model
    assert distance(model, source()) > 1e-6
    assert result.changed == {
        n: int((p != q).sum()) for (n, p), q in zip(model.named_parameters(), source().parameters(), strict=True)
    }
    assert result.total_seconds == pytest.approx(sum(result.seconds.values()))
    assert all(seconds >= 0 for seconds in result.seconds.values())
    assert len(result.record.history) == (2 if name in STEPS else 0)
    if name in STEPS:
        assert [row["epoch"] for row in result.record.history] == [1, 2]
        assert result.record.steps > 0
    assert result.record.samples > 0 or name == "fisher_forget"


@pytest.mark.parametrize("name", NAMES)
def test_modes_come_back_and_gradients_do_not(name: str, model: nn.Module, batches: Any) -> None:
    """On a model with batch norm, dropout and a frozen layer, in a mixture of modes."""
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    frozen = model[6].weight.detach().clone()
    result = call(name, model, batches[:2], batches)
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(model[6].weight, frozen)
    assert "6.weight" not in result.changed


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_model(name: str) -> None:
    models = [source() for _ in range(2)]
    for number, model in enumerate(models):
        torch.manual_seed(number)  # torch's own generator has no say
        call(name, model, seed=3)
    assert distance(*models) == 0


@pytest.mark.parametrize("name", ["retrain", "random_label", "salun", "fisher_forget", "randomk", "random_topk"])
def test_another_seed_gives_another_model(name: str) -> None:
    models = [source() for _ in range(2)]
    for seed, model in enumerate(models):
        call(name, model, seed=seed)
    assert distance(*models) > 1e-6


class UntilChanged(list):  # type: ignore[type-arg]
    """Batches that raise as soon as the model is no longer what it was."""

    def __init__(self, batches: Any, model: nn.Module, error: type[BaseException]) -> None:
        super().__init__(batches)
        self.model, self.error = model, error

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            if distance(self.model, source()) > 0:
                raise self.error
            yield batch


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("name", STEPS)
def test_an_interruption_between_steps_gives_the_model_back(
    name: str, error: type[BaseException], state_of: Any, assert_same: Any
) -> None:
    model = source()
    model[0].train()
    before = state_of(model)
    forget, retain = (UntilChanged(part, model, error) for part in (gone(), kept()))
    with pytest.raises(error):
        call(name, model, forget, retain)
    assert_same(before, state_of(model))


@pytest.mark.parametrize(("name", "op"), [("ssd", "sparse_scatter_"), ("fisher_forget", "sparse_perturb_")])
def test_an_interruption_between_tensors_gives_the_model_back(
    name: str, op: str, monkeypatch: pytest.MonkeyPatch, state_of: Any, assert_same: Any
) -> None:
    model = source()
    before = state_of(model)
    real = getattr(ops, op)
    changed = []

    def interrupted(*arguments: Any) -> None:
        real(*arguments)
        if not changed and distance(model, source()) > 0:
            changed.append(True)
            raise KeyboardInterrupt

    monkeypatch.setattr(ops, op, interrupted)
    with pytest.raises(KeyboardInterrupt):
        call(name, model)
    assert changed
    assert_same(before, state_of(model))


@pytest.mark.parametrize("name", [name for name in STEPS if name not in ("topk", "randomk", "random_topk")])
def test_a_descent_that_diverges_is_refused_and_undone(name: str, state_of: Any, assert_same: Any) -> None:
    model = source()
    before = state_of(model)
    with pytest.raises(ValueError, match=r"diverged: .* lower lr \(1e\+200\)"):
        call(name, model, lr=1e200, epochs=3)
    assert_same(before, state_of(model))


def test_a_last_step_to_infinity_is_refused_too() -> None:
    model = source()
    with pytest.raises(ValueError, match=r"diverged: '0.weight' has .* NaN or infinite values"):
        fg.methods.finetune(model, [], kept()[:1], epochs=1, lr=1e308, weight_decay=1e308)
    assert distance(model, source()) == 0


@pytest.mark.parametrize("name", READS_FORGET)
@pytest.mark.parametrize(("loader", "error", "words"), [
    ([], ValueError, "forget_loader is empty"),
    (iter([]), TypeError, "forget_loader must be an iterable that can be read again"),
    (7, TypeError, "forget_loader must be an iterable .* got 7"),
])  # fmt: skip
def test_a_forget_loader_without_batches_is_refused(name: str, loader: Any, error: Any, words: str) -> None:
    model = source()
    with pytest.raises(error, match=words):
        call(name, model, forget=loader)
    assert distance(model, source()) == 0


@pytest.mark.parametrize("name", READS_RETAIN)
@pytest.mark.parametrize(("loader", "error", "words"), [
    ([], ValueError, "retain_loader is empty"),
    (iter([]), TypeError, "retain_loader must be an iterable that can be read again"),
])  # fmt: skip
def test_a_retain_loader_without_batches_is_refused(name: str, loader: Any, error: Any, words: str) -> None:
    model = source()
    with pytest.raises(error, match=words):
        call(name, model, retain=loader)
    assert distance(model, source()) == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_loader_that_is_not_read_is_not_looked_at(name: str) -> None:
    forget = gone() if name in READS_FORGET else iter(())
    retain = kept() if name in READS_RETAIN else iter(())
    model = source()
    call(name, model, forget, retain)
    assert distance(model, source()) > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("changed", "error", "words"), [
    ({"seed": 0.5}, TypeError, "seed must be an int, got 0.5"),
    ({"seed": 2**70}, ValueError, "seed must fit in 64 bits"),
    ({"loss_fn": "cross_entropy"}, TypeError, "loss_fn must be a function of model and batch, or None, got 'cross"),
    ({"model": [1]}, TypeError, "model must be a torch.nn.Module, got list"),
    ({"model": nn.ReLU()}, ValueError, "no parameter that requires grad"),
    ({"loss_fn": lambda model, batch: model(batch[0])}, ValueError, "loss_fn must return a scalar, got shape"),
    ({"loss_fn": lambda model, batch: 1.0}, TypeError, "loss_fn must return a tensor, got float"),
])  # fmt: skip
def test_what_all_take_is_checked_by_all(name: str, changed: dict[str, Any], error: Any, words: str) -> None:
    model = source()
    arguments = {"model": model, **changed}
    with pytest.raises(error, match=words):
        call(name, arguments.pop("model"), **arguments)
    assert distance(model, source()) == 0


@pytest.mark.parametrize("name", DESCENTS)
@pytest.mark.parametrize(("changed", "error", "words"), [
    ({"epochs": 0}, ValueError, "epochs must be >= 1, got 0"),
    ({"epochs": 1.5}, TypeError, "epochs must be an int, got 1.5"),
    ({"lr": 0.0}, ValueError, "lr must be > 0, got 0.0"),
    ({"lr": "0.1"}, TypeError, "lr must be a number, got '0.1'"),
    ({"momentum": -0.1}, ValueError, "momentum must be >= 0, got -0.1"),
    ({"weight_decay": float("nan")}, ValueError, "weight_decay must be >= 0, got nan"),
    ({"schedule": "steps"}, ValueError, "schedule must be one of .* got 'steps'"),
    ({"warmup": 1.0}, ValueError, "warmup must be below 1, got 1.0"),
])  # fmt: skip
def test_the_options_of_sgd_are_checked(name: str, changed: dict[str, Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        call(name, source(), **changed)


@pytest.mark.parametrize(("name", "changed", "words"), [
    ("neggrad_plus", {"beta": 1.5}, "beta must be >= 0 and at most 1, got 1.5"),
    ("salun", {"ratio": -0.1}, r"ratio must be in \[0, 1\], got -0.1"),
    ("l1_sparse", {"gamma": -1e-9}, "gamma must be >= 0, got -1e-09"),
])  # fmt: skip
def test_a_methods_own_options_are_checked(name: str, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(name, source(), **changed)


@pytest.mark.parametrize("name", NAMES)
def test_data_loaders_work(name: str) -> None:
    listed, loaded = source(), source()
    call(name, listed)
    call(name, loaded, *(DataLoader(TensorDataset(*samples(n, s)), batch_size=6) for n, s in ((12, 1), (20, 2))))
    assert distance(listed, loaded) == 0


def test_a_repair_whose_last_step_diverges_is_no_success() -> None:
    model = source()
    wild = fg.Repair(epochs=1, lr=1e200, weight_decay=1e200, schedule="constant")
    with pytest.raises(ValueError, match=r"diverged: .* NaN or infinite values; lower lr"):
        fg.unlearn(model, gone(), kept()[:1], strategy=fg.RandomK(1.0), repair=wild)
    assert distance(model, source()) == 0


class Averaging(nn.Module):
    """Its forward pass puts another tensor where the buffer was, as moving averages are often written."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("unused", torch.tensor([math.nan, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
        return self.layer(x - self.mean)


def test_a_buffer_that_is_replaced_is_told_and_after_an_error_given_back() -> None:
    batches = [(torch.randn(6, 4) + 1.0, torch.arange(6) % 3) for _ in range(3)]
    assert fg.methods.finetune(Averaging(), [], batches, epochs=1).buffers == ["mean"]
    model, steps = Averaging(), iter(range(2))
    mean = model.mean

    def failing(model: nn.Module, batch: Any) -> Tensor:
        if next(steps, None) is None:
            raise RuntimeError("stop")
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    with pytest.raises(RuntimeError, match="stop"):
        fg.methods.finetune(model, [], batches, epochs=1, loss_fn=failing)
    assert model.mean is mean
    assert mean.equal(torch.zeros(4))


class Late(nn.Module):
    """A branch that the first pass does not go through."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.later = nn.Linear(4, 3), nn.Linear(4, 3)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.first(x) + (self.later(x) if self.passes > 1 else 0.0)


def test_parameters_may_get_their_first_gradient_late() -> None:
    model = Late()
    before = model.later.weight.detach().clone()
    batches = [(torch.randn(6, 4), torch.arange(6) % 3) for _ in range(3)]
    fg.methods.finetune(model, [], batches, epochs=1)
    assert not model.later.weight.equal(before)


class Adapted(nn.Linear):
    """A layer with a parameter more than its reset_parameters knows."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.up = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.up


def test_retraining_refuses_what_no_layer_sets_anew() -> None:
    model = nn.Sequential(Adapted())
    batches = [(torch.randn(6, 4), torch.arange(6) % 3)]
    with pytest.raises(ValueError, match=r"no layer's reset_parameters sets '0\.up' anew: give new_model"):
        fg.methods.retrain(model, [], batches, epochs=1)
    assert model[0].up.equal(torch.ones(3))
    fg.methods.retrain(model, [], batches, epochs=1, lr=1e-9, new_model=lambda: nn.Sequential(Adapted()))
