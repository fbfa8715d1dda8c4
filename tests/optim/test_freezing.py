from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fgunlearn as fg


def last_layer_only() -> fg.Selection:
    nothing = torch.tensor([], dtype=torch.int32)
    return fg.Selection([(8, 6), (8,), (3, 8), (3,)], [nothing, nothing, torch.tensor([1, 5]), torch.tensor([0])])


def test_untouched_tensors_are_frozen_until_the_end_of_the_block(mlp: Any, loss_of: Any) -> None:
    model, twin = mlp(), mlp()
    with fg.SparseOptimizer(
        torch.optim.AdamW(model.parameters(), lr=0.1), last_layer_only(), freeze_untouched=True
    ) as optimizer:
        assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
        assert optimizer.frozen == list(model[0].parameters())
        plain = fg.SparseOptimizer(torch.optim.AdamW(twin.parameters(), lr=0.1), last_layer_only())
        with fg.no_drift(model, last_layer_only()):
            for one, opt in ((model, optimizer), (twin, plain)):
                for step in range(3):
                    opt.zero_grad()
                    loss_of(one, step).backward()
                    opt.step()
        assert model[0].weight.grad is None
    assert all(p.requires_grad for p in model.parameters())
    assert optimizer.frozen == []
    assert all(p.equal(q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_what_was_frozen_before_stays_frozen_after(mlp: Any) -> None:
    model = mlp()
    model[2].bias.requires_grad_(False)
    nothing = torch.tensor([], dtype=torch.int32)
    selection = fg.Selection([(8, 6), (8,), (3, 8)], [nothing, torch.tensor([0]), nothing])
    optimizer = fg.SparseOptimizer(torch.optim.SGD(model.parameters()), selection, freeze_untouched=True)
    assert [p.requires_grad for p in model.parameters()] == [False, True, False, False]
    optimizer.close()
    optimizer.close()
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, False]


def test_with_nothing_selected_nothing_is_frozen(mlp: Any, choose: Any, loss_of: Any) -> None:
    model = mlp()
    optimizer = fg.SparseOptimizer(torch.optim.AdamW(model.parameters()), choose(model, 0.0), freeze_untouched=True)
    loss_of(model).backward()
    with fg.no_drift(model, choose(model, 0.0)):
        optimizer.step()


def test_the_saving_is_measured_and_leaves_no_trace() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(256, 256, bias=False) for _ in range(12)))
    nothing = torch.tensor([], dtype=torch.int32)
    selection = fg.Selection([(256, 256)] * 12, [nothing] * 11 + [torch.tensor([3])])
    optimizer = fg.SparseOptimizer(torch.optim.SGD(model.parameters()), selection, freeze_untouched=True)
    x = torch.randn(256, 256)
    model(x).sum().backward()
    kept = model[11].weight.grad
    saving = optimizer.backward_saving(lambda: model(x).sum(), repeats=3)
    assert model[11].weight.grad is kept
    assert not model[0].weight.requires_grad
    assert saving.tensors == 11
    assert saving.elements == pytest.approx(11 / 12)
    assert saving.share == pytest.approx(1 - saving.frozen / saving.unfrozen)
    assert saving.frozen < saving.unfrozen  # two thirds of the multiplications are left out
