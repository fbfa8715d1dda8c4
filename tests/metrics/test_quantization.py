"""Rounding weights: on the grid exactly, channel by channel, and what it does to a change smaller than half a step."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fgunlearn.metrics import quantized


def on_the_grid(seed: int = 0) -> nn.Sequential:
    """A model whose weights are multiples of 2^-7, with 127 / 128 in each channel: what int8 holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5))
    with torch.no_grad():
        for weight in (model[0].weight, model[2].weight):
            codes = torch.randint(-127, 128, weight.shape, generator=generator)
            codes.view(len(codes), -1)[:, 0] = 127
            weight.copy_(codes / 128)
    return model


def nudged(model: nn.Module, share: float) -> nn.Module:
    """Every weight but the largest of its channel moved by that share of a step, up or down."""
    moved = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in moved.parameters():
            if parameter.dim() > 1:
                signs = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
                inner = parameter.abs() < 126 / 128
                parameter += torch.where(inner, signs * share / 128, 0.0)
    return moved


def test_a_change_of_less_than_half_a_step_is_undone_bit_by_bit(
    state_of: Callable[..., dict[str, Tensor]], assert_same: Callable[..., None]
) -> None:
    source = on_the_grid()
    unlearned = nudged(source, 0.49)
    assert not torch.equal(unlearned[0].weight, source[0].weight)  # type: ignore[index]
    assert_same(state_of(quantized(source)), state_of(source))
    assert_same(state_of(quantized(unlearned)), state_of(source))


def test_a_larger_change_and_another_model_do_not_come_back() -> None:
    source = on_the_grid()
    for other in (nudged(source, 0.51), on_the_grid(seed=2)):
        rounded = quantized(other)
        same = (rounded[2].weight == source[2].weight).double().mean()  # type: ignore[index]
        assert same < 0.2
    fewer_bits = quantized(nudged(source, 0.51), bits=4)  # 18 steps of 8 bits make one of 4
    agree = (fewer_bits[2].weight == quantized(source, bits=4)[2].weight).double().mean()  # type: ignore[index]
    assert agree > 0.9


def test_each_channel_has_its_own_step() -> None:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[127.0, 1.4, -0.6], [0.0127, 0.00006, -0.004]]))
    found = quantized(layer).weight
    torch.testing.assert_close(found, torch.tensor([[127.0, 1.0, -1.0], [0.0127, 0.0001, -0.004]]), rtol=1e-6, atol=0)


def test_channels_are_rows_filters_and_for_transposed_convolutions_the_second_dimension() -> None:
    for layer, channel in (
        (nn.Conv1d(4, 6, 3), 0),
        (nn.ConvTranspose1d(4, 6, 3), 1),
        (nn.Embedding(5, 7), 0),
        (nn.Linear(4, 6), 0),
    ):
        weight = layer.weight.detach()
        for c in range(weight.shape[channel]):
            before = weight.select(channel, c)
            step = before.abs().max() / 127
            expected = (before / step).round() * step
            torch.testing.assert_close(quantized(layer).weight.detach().select(channel, c), expected)


def test_error_is_at_most_half_a_step_and_vectors_stay() -> None:
    model = nn.Sequential(nn.Linear(9, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    for bits in (8, 5, 2):
        found = quantized(model, bits)
        for (name, was), now in zip(model.named_parameters(), found.parameters(), strict=True):
            if was.dim() < 2:
                assert torch.equal(was, now), name
            else:
                step = was.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
                assert bool(((was - now).abs() <= 0.5001 * step).all()), name
                assert len((now / step).round().unique()) <= 2**bits - 1


def test_the_model_stays_as_it_was_and_modes_and_devices_are_copied(
    model: nn.Module, state_of: Callable[..., dict[str, Tensor]], assert_same: Callable[..., None]
) -> None:
    before = state_of(model)
    found = quantized(model)
    assert_same(before, state_of(model))
    assert [m.training for m in found.modules()] == [m.training for m in model.modules()]
    assert not torch.equal(found[6].weight, model[6].weight)  # type: ignore[index]  # frozen ones are rounded as well


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_model_keeps_its_dtype(dtype: torch.dtype) -> None:
    layer = nn.Linear(8, 3).to(dtype)
    found = quantized(layer)
    assert found.weight.dtype == dtype
    exact = layer.weight.detach() if dtype == torch.float64 else layer.weight.detach().float()
    step = exact.abs().amax(1, keepdim=True) / 127
    assert torch.equal(found.weight, ((exact / step).round() * step).to(dtype))  # rounded twice, at the end to dtype


def test_tied_zero_and_empty_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model.register_parameter("empty", nn.Parameter(torch.empty(0, 3)))
    model[1].weight = model[0].weight
    with torch.no_grad():
        model[0].weight[1] = 0.0
    found = quantized(model)
    assert found[1].weight is found[0].weight  # type: ignore[index]
    assert torch.equal(found[0].weight[1], torch.zeros(3))  # type: ignore[index]


def test_bad_arguments_are_refused() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="bits must be <= 8, got 9"):
        quantized(layer, 9)
    with pytest.raises(ValueError, match="bits must be >= 2, got 1"):
        quantized(layer, 1)
    with pytest.raises(TypeError, match=r"bits must be an int, got 8\.0"):
        quantized(layer, 8.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got int"):
        quantized(5)  # type: ignore[arg-type]
    with torch.no_grad():
        layer.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="'weight' holds NaN or infinite values"):
        quantized(layer)
