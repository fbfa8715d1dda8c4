from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fgunlearn as fg

SETTINGS: list[dict[str, Any]] = [
    {"lr": 0.05},
    {"lr": 0.05, "momentum": 0.9},
    {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"lr": 0.05, "momentum": 0.9, "dampening": 0.2, "maximize": True},
]


def mlp(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def choose(model: nn.Module, ratio: float = 0.4) -> fg.Selection:
    return fg.select(model, [], None, fg.RandomK(ratio, seed=2))


def gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fifty_steps_equal_torch_on_the_selection_and_move_nothing_else(
    settings: dict[str, Any], dtype: torch.dtype
) -> None:
    model, selection = mlp(dtype), choose(mlp())
    sparse = fg.SparseOptimizer(torch.optim.SGD(model.parameters(), **settings), selection)
    # The reference optimises the sub-vector of selected coordinates alone.
    start = [p.detach().clone() for p in model.parameters()]
    vectors = [nn.Parameter(p.detach()[m]) for p, m in zip(model.parameters(), selection.masks(), strict=True)]
    dense = torch.optim.SGD(vectors, **settings)
    for step in range(50):
        gradients(model, step)
        for vector, p, mask in zip(vectors, model.parameters(), selection.masks(), strict=True):
            assert p.grad is not None
            vector.grad = p.grad[mask]
        for optimizer in (sparse, dense):
            optimizer.param_groups[0]["lr"] = settings["lr"] * (1 + step % 5)
            optimizer.step()
    for p, was, mask, vector in zip(model.parameters(), start, selection.masks(), vectors, strict=True):
        torch.testing.assert_close(p.detach()[mask], vector.detach(), rtol=1e-6, atol=1e-6)
        assert p.detach()[~mask].equal(was[~mask])


def test_state_has_the_size_of_the_selection() -> None:
    model, selection = mlp(torch.bfloat16), choose(mlp())
    optimizer = fg.SparseOptimizer(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), selection)
    gradients(model, 0)
    optimizer.step()
    buffers = [state["momentum_buffer"] for state in optimizer.state.values()]
    assert sum(b.numel() for b in buffers) == selection.k
    assert {b.dtype for b in buffers} == {torch.float32}


def test_param_groups_are_the_wrapped_optimizers_own() -> None:
    model = mlp()
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters(), "lr": 0.1}]
    wrapped = torch.optim.SGD(groups, lr=1.0)
    optimizer = fg.SparseOptimizer(wrapped, choose(model, 1.0))
    was = [p.detach().clone() for p in model.parameters()]
    gradients(model, 0)
    optimizer.step()
    changed = [not p.equal(q) for p, q in zip(model.parameters(), was, strict=True)]
    assert changed == [False, False, True, True]
    wrapped.param_groups[0]["lr"] = 0.1  # an edit of the wrapped optimizer takes effect
    optimizer.step()
    assert not model[0].weight.equal(was[0])


def test_schedulers_closures_and_zero_grad_work() -> None:
    model = mlp()
    optimizer = fg.SparseOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), choose(model))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=10, cycle_momentum=False)
    x, y = torch.randn(32, 6), torch.randint(0, 3, (32,))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    losses = []
    for _ in range(9):
        losses.append(optimizer.step(closure).item())
        scheduler.step()
    assert losses[-1] < losses[0]
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_state_goes_on_where_it_was(tmp_path: Path, dtype: torch.dtype) -> None:
    model, selection = mlp(dtype), choose(mlp())
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
    optimizer = fg.SparseOptimizer(torch.optim.SGD(model.parameters(), **settings), selection)
    for step in range(3):
        gradients(model, step)
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    twin = copy.deepcopy(model)
    resumed = fg.SparseOptimizer(torch.optim.SGD(twin.parameters(), **settings), selection)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in range(3, 6):
        for one, opt in ((model, optimizer), (twin, resumed)):
            gradients(one, step)
            opt.step()
    assert all(a.equal(b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_parameters_without_gradient_are_skipped() -> None:
    model = mlp()
    optimizer = fg.SparseOptimizer(torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1), choose(model, 1.0))
    was = model[0].weight.detach().clone()
    gradients(model, 0)
    model[0].weight.grad = None
    optimizer.step()
    assert model[0].weight.equal(was)


def test_what_it_cannot_wrap_is_refused_by_name() -> None:
    model = mlp()
    with pytest.raises(TypeError, match=r"one of torch.optim.SGD, got LBFGS"):
        fg.SparseOptimizer(torch.optim.LBFGS(model.parameters()), choose(model))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="selection must be a Selection, got list"):
        fg.SparseOptimizer(sgd, [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="made for 2 tensors, the optimizer has 4"):
        fg.SparseOptimizer(sgd, choose(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=r"parameter 0 of the optimizer has shape \(8, 6\), and \(8, 5\)"):
        fg.SparseOptimizer(sgd, choose(nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3))))
    optimizer = fg.SparseOptimizer(sgd, choose(model))
    with pytest.raises(ValueError, match=r"no coordinates for a parameter of shape \(3,\)"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))]})


def test_a_sparse_gradient_is_refused_and_nothing_moves() -> None:
    model = nn.Embedding(5, 3, sparse=True)
    optimizer = fg.SparseOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), choose(model))
    model(torch.tensor([1])).sum().backward()
    was = model.weight.detach().clone()
    with pytest.raises(TypeError, match="must be dense"):
        optimizer.step()
    assert model.weight.equal(was)


def test_a_state_of_another_selection_is_refused() -> None:
    model = mlp()
    settings = {"lr": 0.1, "momentum": 0.9}
    first = fg.SparseOptimizer(torch.optim.SGD(model.parameters(), **settings), choose(model, 0.4))
    gradients(model, 0)
    first.step()
    other = fg.SparseOptimizer(torch.optim.SGD(model.parameters(), **settings), choose(model, 0.6))
    with pytest.raises(ValueError, match="saved for another selection"):
        other.load_state_dict(first.state_dict())
    assert not other.state
