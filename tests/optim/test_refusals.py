from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fgunlearn as fg

SGD = (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9})
ADAMW = (torch.optim.AdamW, {"lr": 0.1})


def unchanged_by(optimizer: fg.SparseOptimizer, error: Any, words: str) -> None:
    state = copy.deepcopy(optimizer.state_dict()["state"])
    was = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    with pytest.raises(error, match=words):
        optimizer.step()
    assert all(p.equal(q) for p, q in zip((p for g in optimizer.param_groups for p in g["params"]), was, strict=True))
    now = optimizer.state_dict()["state"]
    assert now.keys() == state.keys()
    for number, held in state.items():
        assert held.keys() == now[number].keys()
        for name, value in held.items():
            both = isinstance(value, torch.Tensor) and isinstance(now[number][name], torch.Tensor)
            assert torch.equal(now[number][name], value) if both else now[number][name] == value


@pytest.mark.parametrize("stepped", [False, True])
def test_after_an_error_parameters_and_state_are_as_before(
    stepped: bool, mlp: Any, choose: Any, gradients: Any
) -> None:
    def ready() -> tuple[nn.Sequential, fg.SparseOptimizer]:
        model = mlp()
        groups = [{"params": model[0].parameters()}, {"params": model[2].parameters()}]
        optimizer = fg.SparseOptimizer(torch.optim.AdamW(groups, lr=0.1), choose(model))
        gradients(model, 0)
        if stepped:
            optimizer.step()
        return model, optimizer

    # always the last group: the first must not have moved by then
    model, optimizer = ready()
    model[2].weight.grad = torch.eye(3, 8).to_sparse()
    unchanged_by(optimizer, TypeError, "must be dense, got layout torch.sparse_coo")
    model, optimizer = ready()
    model[2].weight.data = torch.zeros(3, 9)
    model[2].weight.grad = torch.zeros(3, 9)
    unchanged_by(
        optimizer, ValueError, r"parameter 2 was float32 of shape \(3, 8\) on cpu .* is float32 of shape \(3, 9\)"
    )
    model, optimizer = ready()
    model[2].to(torch.float64)
    unchanged_by(optimizer, ValueError, "parameter 2 was float32 .* and is float64")
    model, optimizer = ready()
    optimizer._slots[model[2].weight].device = torch.device("cuda", 0)  # as if it had been wrapped there
    unchanged_by(optimizer, ValueError, r"parameter 2 was .* on cuda:0 .* and is .* on cpu now")
    model, optimizer = ready()
    optimizer.param_groups[1]["lr"] = float("nan")
    unchanged_by(optimizer, ValueError, "lr of param group 1 must be finite, got nan")
    model, optimizer = ready()
    optimizer._slots[model[2].bias].index = torch.tensor([0, 99])  # what no check foresees, the op refuses
    model[0].weight.grad = model[0].bias.grad = None
    unchanged_by(optimizer, RuntimeError, r"indices\[1\]\[1\] = 99 is out of range")


@pytest.fixture
def two_groups(mlp: Any, choose: Any, gradients: Any) -> Callable[..., tuple[nn.Sequential, fg.SparseOptimizer]]:
    """Makes an optimizer of two groups that has stepped once and is ready for the next step."""

    def make(
        kind: Any = torch.optim.AdamW, options: Any = ADAMW[1], **more: Any
    ) -> tuple[nn.Sequential, fg.SparseOptimizer]:
        model = mlp()
        groups = [{"params": model[0].parameters()}, {"params": model[2].parameters()}]
        optimizer = fg.SparseOptimizer(kind(groups, **options), choose(model), **more)
        gradients(model, 0)
        optimizer.step()
        return model, optimizer

    return make


@pytest.mark.parametrize(
    ("rule", "name", "value", "words"),
    [
        (ADAMW, "betas", (0.9, 1.5), r"must be in \[0, 1\), got \(0.9, 1.5\)"),
        (ADAMW, "betas", (1.0, 0.9), r"must be in \[0, 1\), got \(1.0, 0.9\)"),
        (ADAMW, "betas", (0.9, math.nan), "must be finite, got nan"),
        (ADAMW, "betas", None, r"must be two numbers in \[0, 1\), got None"),
        (ADAMW, "betas", (0.9,), r"must be two numbers in \[0, 1\), got \(0.9,\)"),
        (ADAMW, "eps", None, "must be a number, got None"),
        (ADAMW, "eps", math.nan, "must be finite, got nan"),
        (ADAMW, "weight_decay", None, "must be a number, got None"),
        (ADAMW, "lr", "x", "must be a number, got 'x'"),
        (ADAMW, "lr", torch.ones(2), r"must be one real number, got float32 of shape \(2,\)"),
        (ADAMW, "lr", torch.tensor(1j), "must be one real number, got complex64"),
        (ADAMW, "lr", torch.tensor(math.inf), "must be finite, got inf"),
        (ADAMW, "lr", torch.ones(2, device="meta"), "must be one float32 or float64 number, got float32"),
        (SGD, "momentum", None, "must be a number, got None"),
        (SGD, "dampening", math.nan, "must be finite, got nan"),
        (SGD, "weight_decay", math.inf, "must be finite, got inf"),
    ],
)
def test_a_bad_number_in_the_last_group_moves_nothing(
    rule: Any, name: str, value: Any, words: str, two_groups: Any
) -> None:
    _, optimizer = two_groups(*rule)
    optimizer.param_groups[1][name] = value
    unchanged_by(optimizer, ValueError, f"^{name} of param group 1 {words}")
    del optimizer.param_groups[1][name]
    unchanged_by(optimizer, ValueError, f"^{name} of param group 1 is missing")


@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize(
    ("rule", "key", "value", "words"),
    [
        (
            ADAMW,
            "exp_avg",
            torch.zeros(99),
            r"must be 1 contiguous float32 values on cpu, got float32 of shape \(99,\)",
        ),
        (ADAMW, "exp_avg_sq", torch.zeros(1).double(), "must be 1 contiguous float32 values on cpu, got float64"),
        (ADAMW, "exp_avg_sq", torch.zeros(1, device="meta"), "must be 1 contiguous float32 .* on meta"),
        (ADAMW, "exp_avg", [0.0], r"must be 1 contiguous float32 values on cpu, got \[0.0\]"),
        (ADAMW, "step", 3, "must be a tensor, got 3"),
        (ADAMW, "step", torch.zeros(2), r"must be one number, got float32 of shape \(2,\)"),
        (ADAMW, "step", torch.tensor(3), "must be float32 or float64, got int64"),
        (ADAMW, "step", torch.tensor(-4.0), "must be >= 0, got -4.0"),
        (ADAMW, "step", torch.tensor(math.nan), "must be >= 0, got nan"),
        (SGD, "momentum_buffer", torch.zeros(2), r"must be 1 contiguous float32 values on cpu, got float32 of shape"),
    ],
)
def test_a_bad_state_in_the_last_group_moves_nothing(
    rule: Any, key: str, value: Any, words: str, gathered: bool, mlp: Any, gradients: Any
) -> None:
    kind, options = rule
    model = mlp()
    selection = fg.Selection([(8, 6), (8,), (3, 8), (3,)], [torch.tensor([i]) for i in (0, 1, 2, 0)])
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters()}]
    optimizer = fg.SparseOptimizer(kind(groups, **options), selection, free_grads=gathered)
    for step in range(2):
        gradients(model, step)
        if gathered:
            optimizer.zero_grad()
            sum(p.square().sum() for p in model.parameters()).backward()
        if step == 0:
            optimizer.step()
    optimizer.state[model[2].bias][key] = value
    good = {p: copy.deepcopy(s) for p, s in optimizer.state.items() if p is not model[2].bias}
    was = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=f"^{key} of parameter 3 {words}"):
        optimizer.step()
    assert all(p.equal(q) for p, q in zip(model.parameters(), was, strict=True))
    assert all(torch.equal(t, good[p][name]) for p in good for name, t in optimizer.state[p].items())
    assert optimizer.state[model[2].bias][key] is value


def test_a_state_that_lost_a_key_moves_nothing(two_groups: Any) -> None:
    for key in ("step", "exp_avg", "exp_avg_sq"):
        model, optimizer = two_groups()
        del optimizer.state[model[2].weight][key]
        unchanged_by(optimizer, ValueError, f"the state of parameter 2 has no {key}")


def test_freed_values_that_are_not_contiguous_move_nothing(two_groups: Any) -> None:
    model, optimizer = two_groups()
    slot = optimizer._slots[model[2].weight]
    values = torch.ones(2 * slot.k)[::2]
    coordinates = slot.coordinates()
    model[2].weight.grad = torch.sparse_coo_tensor(
        coordinates, values, (3, 8), is_coalesced=True, check_invariants=True
    )
    unchanged_by(optimizer, TypeError, "gradient of parameter 2 must be dense")


def test_expanded_parameters_are_refused(mlp: Any, choose: Any, two_groups: Any) -> None:
    params = [nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(1).expand(3))]
    selection = fg.Selection([(4,), (3,)], [torch.tensor([0]), torch.tensor([0])])
    with pytest.raises(ValueError, match=r"parameter 1 is expanded: .* clone it"):
        fg.SparseOptimizer(torch.optim.SGD(params, lr=0.1), selection)
    model, optimizer = two_groups()
    model[2].bias.data = torch.zeros(1).expand(3)  # since then
    unchanged_by(optimizer, ValueError, "parameter 3 is expanded")


def test_groups_that_only_names_can_tell_apart_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    selection = fg.select(model, [], None, fg.RandomK(0.4))

    def swapped() -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": model[1].parameters()}, {"params": model[0].parameters()}], lr=0.1)

    words = r"param groups 0 and 1 both hold a parameter of shape \(4, 4\), .* pass model= to match them by name"
    with pytest.raises(ValueError, match=words):
        fg.SparseOptimizer(swapped(), selection)
    optimizer = fg.SparseOptimizer(swapped(), selection, model=model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    with fg.no_drift(model, selection):
        optimizer.step()
    fg.SparseOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), selection)  # one group: in the model's order
    unnamed = fg.Selection(selection.shapes, selection.indices)  # of tensors, in the order they are given
    fg.SparseOptimizer(swapped(), unnamed)


@pytest.mark.parametrize("seed", [True, 1.5, "x", None])
def test_a_seed_is_an_int(seed: Any, mlp: Any, choose: Any) -> None:
    with pytest.raises(TypeError, match="seed must be an int"):
        fg.SparseOptimizer(torch.optim.SGD(mlp().parameters()), choose(mlp()), seed=seed)


def test_a_seed_has_64_bits(mlp: Any, choose: Any) -> None:
    for seed in (2**63, -(2**63) - 1):
        with pytest.raises(ValueError, match="seed must fit in 64 bits"):
            fg.SparseOptimizer(torch.optim.SGD(mlp().parameters()), choose(mlp()), seed=seed)
    for seed in (2**63 - 1, -(2**63)):
        model = mlp(torch.bfloat16)
        optimizer = fg.SparseOptimizer(
            torch.optim.SGD(model.parameters()), choose(mlp()), stochastic_rounding=True, seed=seed
        )
        model[0].weight.grad = torch.ones_like(model[0].weight)
        optimizer.step()
