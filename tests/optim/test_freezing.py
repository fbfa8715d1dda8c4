from __future__ import annotations

import copy
import gc
import pickle
import weakref
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
    values = kept.clone()
    saving = optimizer.backward_saving(lambda: model(x).sum(), repeats=3)
    assert model[11].weight.grad is kept
    assert kept.equal(values)
    assert not model[0].weight.requires_grad
    assert saving.tensors == 11
    assert saving.elements == pytest.approx(11 / 12)
    assert saving.share == pytest.approx(1 - saving.frozen / saving.unfrozen)
    assert saving.frozen < saving.unfrozen  # two thirds of the multiplications are left out
    for repeats in (0, -1):
        with pytest.raises(ValueError, match=f"repeats must be >= 1, got {repeats}"):
            optimizer.backward_saving(lambda: model(x).sum(), repeats=repeats)
    assert model[11].weight.grad is kept


def first_layer_only() -> fg.Selection:
    nothing = torch.tensor([], dtype=torch.int32)
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    return fg.Selection([(8, 6), (8,), (3, 8), (3,)], [torch.tensor([1]), nothing, nothing, nothing], names=names)


@pytest.mark.parametrize("way", ["wrapped", "deepcopy", "pickle"])
def test_parameters_of_another_optimizer_are_left_alone(way: str, mlp: Any, choose: Any, loss_of: Any) -> None:
    model = mlp()
    head = torch.optim.AdamW(model[2].parameters())
    body = torch.optim.AdamW(model[0].parameters())
    optimizer = fg.SparseOptimizer(body, choose(model), model=model, free_grads=True)
    if way == "deepcopy":
        model, optimizer, head = copy.deepcopy((model, optimizer, head))
    elif way == "pickle":
        model, optimizer, head = pickle.loads(pickle.dumps((model, optimizer, head)))
    loss_of(model).backward()
    layouts = [p.grad.layout for p in model.parameters()]
    assert layouts == [torch.sparse_coo] * 2 + [torch.strided] * 2
    head.step()
    optimizer.step()


def test_freezing_and_measuring_leave_parameters_of_another_optimizer_alone(mlp: Any, loss_of: Any) -> None:
    model = mlp()
    body = torch.optim.AdamW(model[0].parameters())
    optimizer = fg.SparseOptimizer(body, first_layer_only(), model=model, freeze_untouched=True)
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True]
    saving = optimizer.backward_saving(lambda: loss_of(model), repeats=1)
    assert saving.elements == pytest.approx(8 / 56)


def test_parameters_that_are_added_are_frozen_and_freed_then(mlp: Any, loss_of: Any) -> None:
    model = mlp()
    body = torch.optim.AdamW(model[0].parameters())
    optimizer = fg.SparseOptimizer(body, first_layer_only(), model=model, freeze_untouched=True)
    optimizer.add_param_group({"params": [model[2].bias]})
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, False]
    optimizer.close()
    optimizer.add_param_group({"params": [model[2].weight]})
    assert all(p.requires_grad for p in model.parameters())

    model = mlp()
    body = torch.optim.AdamW(model[0].parameters())
    everything = fg.select(model, [], None, fg.RandomK(1.0))
    optimizer = fg.SparseOptimizer(body, everything, model=model, free_grads=True)
    optimizer.add_param_group({"params": [model[2].weight]})
    loss_of(model).backward()
    layouts = [p.grad.layout for p in model.parameters()]
    assert layouts == [torch.sparse_coo] * 3 + [torch.strided]
    optimizer.close()
    optimizer.add_param_group({"params": [model[2].bias]})
    model.zero_grad()
    loss_of(model).backward()
    assert all(p.grad.layout == torch.strided for p in model.parameters())


def test_what_was_frozen_is_trainable_when_the_optimizer_is_gone(mlp: Any) -> None:
    model = mlp()
    optimizer = fg.SparseOptimizer(torch.optim.AdamW(model.parameters()), last_layer_only(), freeze_untouched=True)
    twin, copied = copy.deepcopy((model, optimizer))
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None
    assert all(p.requires_grad for p in model.parameters())
    assert [p.requires_grad for p in twin.parameters()] == [False, False, True, True]
    del copied
    gc.collect()
    assert all(p.requires_grad for p in twin.parameters())


def test_wrapping_over_frozen_parameters_says_so(mlp: Any) -> None:
    model = mlp()
    optimizer = fg.SparseOptimizer(
        torch.optim.AdamW(model.parameters()), first_layer_only(), model=model, freeze_untouched=True
    )
    for given in (None, model):
        with pytest.raises(ValueError, match=r"3 of the parameters have requires_grad=False: .* close\(\) it first"):
            fg.SparseOptimizer(torch.optim.AdamW(model.parameters()), first_layer_only(), model=given)
    optimizer.close()
    fg.SparseOptimizer(torch.optim.AdamW(model.parameters()), first_layer_only())


def test_wrapping_that_fails_freezes_nothing(mlp: Any, gradients: Any) -> None:
    model = mlp()
    wrapped = torch.optim.Adam(model.parameters())
    gradients(model, 0)
    wrapped.step()
    wrapped.state[model[2].weight]["exp_avg"] = torch.zeros(77)
    with pytest.raises(ValueError, match=r"exp_avg of parameter 2 has shape \(77,\)"):
        fg.SparseOptimizer(wrapped, last_layer_only(), freeze_untouched=True, free_grads=True)
    assert all(p.requires_grad for p in model.parameters())


def test_hooks_and_slots_go_with_their_optimizer(mlp: Any, choose: Any, loss_of: Any) -> None:
    model = mlp()
    slots = []
    for _ in range(3):
        optimizer = fg.SparseOptimizer(torch.optim.Adam(model.parameters()), choose(model), free_grads=True)
        loss_of(model).backward()
        slots.append(weakref.ref(optimizer._slots[model[0].weight]))
        model.zero_grad()
        del optimizer
    gc.collect()
    assert [slot() for slot in slots] == [None] * 3
    assert all(not p._post_accumulate_grad_hooks for p in model.parameters())


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_of_a_closed_optimizer_is_closed(way: str, mlp: Any, choose: Any, loss_of: Any) -> None:
    model = mlp()
    with fg.SparseOptimizer(torch.optim.AdamW(model.parameters()), choose(model), free_grads=True) as optimizer:
        pass
    both = (model, optimizer)
    twin, copied = copy.deepcopy(both) if way == "deepcopy" else pickle.loads(pickle.dumps(both))
    loss_of(twin).backward()
    assert all(p.grad.layout == torch.strided for p in twin.parameters())
    copied.step()
