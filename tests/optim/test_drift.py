from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import fgunlearn as fg


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_moves_on_the_selection_pass_and_a_single_bit_off_it_is_named(
    dtype: torch.dtype, mlp: Any, choose: Any
) -> None:
    model = mlp(dtype)
    selection = choose(mlp())
    with fg.no_drift(model, selection) as digests:
        assert list(digests) == [name for name, _ in model.named_parameters()]
        for p, mask in zip(model.parameters(), selection.masks(), strict=True):
            p.data[mask] = math.nan
    bits = model[2].weight.data.view(-1).view({2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize])
    off = int((~selection.masks()[2]).reshape(-1).nonzero()[0])
    with (
        pytest.raises(RuntimeError, match=r"parameter '2.weight' changed off the selection"),
        fg.no_drift(model, selection),
    ):
        bits[off] ^= 1


def test_minus_zero_is_a_move_and_so_is_a_frozen_parameters(mlp: Any, choose: Any) -> None:
    model = mlp()
    selection = choose(model, 0.0)
    model[0].bias.data[0] = 0.0
    with pytest.raises(RuntimeError, match=r"'0.bias' changed"), fg.no_drift(model, selection):
        model[0].bias.data[0] = -0.0
    model[2].requires_grad_(False)
    partly = fg.select(model, [], None, fg.RandomK(1.0))
    with pytest.raises(RuntimeError, match=r"'2.weight' changed"), fg.no_drift(model, partly):
        model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})


def test_a_dense_step_is_caught_and_a_sparse_one_is_not(mlp: Any, choose: Any, gradients: Any) -> None:
    model = mlp()
    selection = choose(model)
    gradients(model, 0)
    for p, mask in zip(model.parameters(), selection.masks(), strict=True):
        p.grad.mul_(mask)
    with pytest.raises(RuntimeError, match="changed off the selection"), fg.no_drift(model, selection):
        torch.optim.AdamW(model.parameters()).step()  # weight decay moves the rest
    with fg.no_drift(model, selection):
        fg.SparseOptimizer(torch.optim.AdamW(model.parameters()), selection).step()


def test_an_exception_inside_goes_on(mlp: Any, choose: Any) -> None:
    model = mlp()

    def moved_and_failed() -> None:
        model[0].weight.data.add_(1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"), fg.no_drift(model, choose(model)):
        moved_and_failed()


def test_another_models_selection_and_a_vanished_parameter_are_named(mlp: Any, choose: Any) -> None:
    model = mlp()
    with pytest.raises(ValueError, match="made for another model"), fg.no_drift(model, choose(nn.Linear(2, 2))):
        pass
    with pytest.raises(TypeError, match="must be a Selection, got int"), fg.no_drift(model, 3):  # type: ignore[arg-type]
        pass
    with pytest.raises(RuntimeError, match=r"parameter '2.bias' vanished"), fg.no_drift(model, choose(model)):
        model[2].bias = None
    with pytest.raises(RuntimeError, match=r"parameter '2.bias' appeared"), fg.no_drift(model, choose(model)):
        model[2].bias = nn.Parameter(torch.zeros(3))


def test_empty_scalar_tied_and_strided_parameters_pass() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scalar = nn.Parameter(torch.tensor(1.0))
            self.empty = nn.Parameter(torch.zeros(0, 3))
            self.wide = nn.Parameter(torch.randn(4, 6).t())
            self.tied = self.wide

    model = Odd()
    selection = fg.select(model, [], None, fg.RandomK(0.5))
    optimizer = fg.SparseOptimizer(torch.optim.AdamW(model.parameters()), selection)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    with fg.no_drift(model, selection):
        optimizer.step()
