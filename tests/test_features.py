from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fgunlearn import metrics
from fgunlearn.features import InputOf, features_of, penultimate_layer

Batches = list[tuple[Tensor, Tensor]]


class Recurrent(nn.Module):
    """Classifies series (batch, channels, length); notes whether cuDNN was to be used."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.LSTM(2, 5, batch_first=True)
        self.head = nn.Linear(5, 3)
        self.cudnn: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.cudnn.append(torch.backends.cudnn.enabled)
        return self.head(self.body(x.transpose(1, 2))[0][:, -1])  # type: ignore[no-any-return]


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=2.0 * x)  # type: ignore[no-any-return]


def test_the_features_are_what_the_last_linear_layer_is_given(model: nn.Module, batches: Batches) -> None:
    model.eval()
    assert penultimate_layer(model) == "6"
    x = batches[0][0]
    torch.testing.assert_close(InputOf(model)(x), model[:6](x))


def test_another_layer_can_be_named_and_its_input_is_flattened(model: nn.Module, batches: Batches) -> None:
    model.eval()
    x = batches[0][0]
    torch.testing.assert_close(InputOf(model, "1")(x), model[:1](x).flatten(1))


def test_the_input_gets_the_gradient_that_autograd_gives_and_the_parameters_none(
    model: nn.Module, batches: Batches
) -> None:
    model.eval()
    x = batches[0][0].requires_grad_()
    InputOf(model)(x).square().sum().backward()
    found, x.grad = x.grad, None
    assert all(p.grad is None for p in model.parameters())
    model[:6](x).square().sum().backward()
    torch.testing.assert_close(found, x.grad)


def test_looking_changes_nothing_of_the_model(
    model: nn.Module,
    batches: Batches,
    state_of: Callable[[nn.Module], dict[str, Tensor]],
    assert_same: Callable[..., None],
) -> None:
    model[5].weight.grad = torch.ones_like(model[5].weight)
    model.eval()
    before = state_of(model)
    InputOf(model)(batches[0][0].requires_grad_()).sum().backward()
    assert_same(before, state_of(model))
    assert all(not module._forward_pre_hooks for module in model.modules())
    assert [p.requires_grad for p in model[6].parameters()] == [False, False]


def test_the_hook_goes_when_the_forward_pass_fails(model: nn.Module) -> None:
    with pytest.raises(RuntimeError):
        InputOf(model)(torch.zeros(2, 3, 8, 8))
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_what_the_parameters_are_when_it_is_called_counts(model: nn.Module, batches: Batches) -> None:
    look = InputOf(model.eval())
    with torch.no_grad():
        model[5].weight.mul_(2.0)
    torch.testing.assert_close(look(batches[0][0]), model[:6](batches[0][0]))


def test_tied_parameters_stay_tied() -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    tied[2].weight = tied[0].weight
    x = torch.randn(3, 4, requires_grad=True)
    torch.testing.assert_close(InputOf(tied)(x), tied[:3](x))
    InputOf(tied)(x).sum().backward()
    assert tied[0].weight.grad is None


def test_a_layer_called_by_keyword_is_seen_too() -> None:
    x = torch.randn(2, 4)
    torch.testing.assert_close(InputOf(ByName())(x), 2.0 * x)


def test_recurrent_layers_have_a_gradient_in_eval_mode_which_cudnns_have_not() -> None:
    model = Recurrent().eval()
    x = torch.randn(3, 2, 9)
    before = torch.backends.cudnn.enabled
    InputOf(model)(x)
    InputOf(model)(x.requires_grad_()).sum().backward()
    assert model.cudnn == [before, False]
    assert torch.backends.cudnn.enabled is before
    assert x.grad is not None
    assert all(p.grad is None for p in model.parameters())


def test_features_of_a_loader_are_taken_in_eval_mode_over_all_its_batches(model: nn.Module, batches: Batches) -> None:
    model.train()
    found = features_of(model, batches)
    assert model.training
    assert not found.requires_grad
    still = copy.deepcopy(model).eval()
    torch.testing.assert_close(found, still[:6](torch.cat([x for x, _ in batches])))


def test_an_empty_loader_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="loader is empty"):
        features_of(model, [])


def test_layers_that_can_not_be_looked_into_are_named(model: nn.Module, batches: Batches) -> None:
    with pytest.raises(ValueError, match=r"layer must name a module of the model, got 'nowhere'"):
        InputOf(model, "nowhere")
    with pytest.raises(ValueError, match=r"no nn\.Linear.*layer="):
        InputOf(nn.Sequential(nn.Flatten()))
    aside = nn.Sequential(nn.Flatten())
    aside.register_module("aside", nn.Module())
    aside.forward = lambda x: x  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="layer 'aside' is not reached"):
        InputOf(aside, "aside")(batches[0][0])


def test_a_layer_that_is_not_given_a_tensor_is_named() -> None:
    class Takes(nn.Module):
        def forward(self, held: Any) -> Tensor:
            return held["x"]  # type: ignore[no-any-return]

    class Gives(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Takes()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner({"x": x})  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match=r"layer 'inner' must be given a tensor .*got dict"):
        InputOf(Gives(), "inner")(torch.zeros(2, 3))


def test_attentions_output_projection_is_not_taken_for_the_last_layer() -> None:
    class Pooling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.head(x)
            return self.attention(hidden, hidden, hidden)[0].mean(1)  # type: ignore[no-any-return]

    model, x = Pooling(), torch.randn(2, 3, 8)
    assert penultimate_layer(model) == "head"
    torch.testing.assert_close(InputOf(model)(x), x.flatten(1))


def test_inputs_that_are_no_tensors_reach_the_model_as_they_are() -> None:
    class OfDict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, held: dict[str, Tensor]) -> Tensor:
            return self.head(held["x"])  # type: ignore[no-any-return]

    x = torch.randn(5, 4)
    data = [({"x": x}, torch.arange(5) % 3)]
    torch.testing.assert_close(features_of(OfDict(), data), x)
    assert 0.0 <= metrics.accuracy(OfDict(), data) <= 1.0
