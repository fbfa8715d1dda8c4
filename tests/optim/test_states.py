from __future__ import annotations

import copy
import gc
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fgunlearn as fg

KINDS: list[tuple[Any, dict[str, Any]]] = [
    (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    (torch.optim.Adam, {"lr": 0.05, "amsgrad": True}),
    (torch.optim.AdamW, {"lr": 0.05}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_state_goes_on_where_it_was(
    kind: Any, options: dict[str, Any], dtype: torch.dtype, tmp_path: Path, mlp: Any, choose: Any, gradients: Any
) -> None:
    model, selection = mlp(dtype), choose(mlp())
    optimizer = fg.SparseOptimizer(kind(model.parameters(), **options), selection)
    for step in range(3):
        gradients(model, step)
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    twin = copy.deepcopy(model)
    resumed = fg.SparseOptimizer(kind(twin.parameters(), **{**options, "lr": 1.0}), selection)
    saved = torch.load(tmp_path / "state.pt", weights_only=True, map_location="cpu")
    resumed.load_state_dict(saved)
    assert resumed.param_groups[0]["lr"] == options["lr"]
    for step in range(3, 6):
        for one, opt in ((model, optimizer), (twin, resumed)):
            gradients(one, step)
            opt.step()
    assert all(a.equal(b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert {str(t.dtype) for s in resumed.state.values() for t in s.values()} == {"torch.float32"}


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("way", ["load_state_dict", "wrapping"])
def test_a_dense_optimizers_state_is_gathered(
    kind: Any, options: dict[str, Any], way: str, mlp: Any, choose: Any, gradients: Any
) -> None:
    ours, theirs = mlp(torch.float64), mlp(torch.float64)
    selection = choose(mlp())
    dense = kind(theirs.parameters(), **options)
    for step in range(4):
        gradients(theirs, step)
        dense.step()
    ours.load_state_dict(theirs.state_dict())
    if way == "wrapping":
        wrapped = kind(ours.parameters(), **options)
        wrapped.load_state_dict(dense.state_dict())
        sparse = fg.SparseOptimizer(wrapped, selection)
    else:
        sparse = fg.SparseOptimizer(kind(ours.parameters(), **options), selection)
        sparse.load_state_dict(dense.state_dict())
    for step in range(4, 8):
        gradients(ours, step)
        gradients(theirs, step)
        sparse.step()
        dense.step()
    for p, q, mask in zip(ours.parameters(), theirs.parameters(), selection.masks(), strict=True):
        torch.testing.assert_close(p[mask], q[mask], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("free_grads", [False, True])
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies_go_on_by_themselves(
    kind: Any, options: dict[str, Any], free_grads: bool, way: str, mlp: Any, choose: Any, loss_of: Any
) -> None:
    model = mlp()
    optimizer = fg.SparseOptimizer(kind(model.parameters(), **options), choose(model), free_grads=free_grads)
    loss_of(model).backward()
    optimizer.step()
    if way == "deepcopy":
        twin, copied = copy.deepcopy((model, optimizer))
    elif way == "pickle":
        twin, copied = pickle.loads(pickle.dumps((model, optimizer)))
    else:
        file = io.BytesIO()
        torch.save((model, optimizer), file)
        file.seek(0)
        twin, copied = torch.load(file, weights_only=False)
    before = [p.detach().clone() for p in twin.parameters()]
    for one, opt in ((model, optimizer), (twin, copied)):
        opt.zero_grad()
        loss_of(one, 1).backward()
        assert all((p.grad.layout != torch.strided) == free_grads for p in one.parameters() if p.grad is not None)
        opt.step()
    assert all(a.equal(b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert not all(a.equal(b) for a, b in zip(before, twin.parameters(), strict=True))
    assert copied.selection == optimizer.selection


def test_state_dict_hooks_run(mlp: Any, choose: Any, gradients: Any) -> None:
    model = mlp()
    optimizer = fg.SparseOptimizer(torch.optim.AdamW(model.parameters(), lr=0.1), choose(model))
    gradients(model, 0)
    optimizer.step()
    seen: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda _: seen.append("before saving"))
    optimizer.register_state_dict_post_hook(lambda _, state: seen.append("after saving"))

    def changed(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        seen.append("before loading")
        return {**state, "param_groups": [{**group, "lr": 0.7} for group in state["param_groups"]]}

    optimizer.register_load_state_dict_pre_hook(changed)
    optimizer.register_load_state_dict_post_hook(lambda _: seen.append("after loading"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["before saving", "after saving", "before loading", "after loading"]
    assert optimizer.param_groups[0]["lr"] == 0.7


def test_the_step_count_lies_where_torch_keeps_it(mlp: Any, choose: Any, gradients: Any) -> None:
    model = mlp()
    wrapped = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.1), capturable=True)
    optimizer = fg.SparseOptimizer(wrapped, choose(model))
    gradients(model, 0)
    optimizer.step()
    count = optimizer.state[model[0].weight]["step"]
    assert isinstance(count, torch.Tensor)
    assert count.shape == ()
    optimizer.param_groups[0]["lr"].fill_(0.0)
    was = model[0].weight.detach().clone()
    optimizer.param_groups[0]["weight_decay"] = 0.0
    optimizer.step()
    assert optimizer.state[model[0].weight]["step"] is count  # counted in place, as a captured graph needs it
    assert int(count) == 2
    assert model[0].weight.equal(was)


def test_a_state_of_another_selection_optimizer_or_model_is_refused(mlp: Any, choose: Any, gradients: Any) -> None:
    model = mlp()
    options = {"lr": 0.1, "momentum": 0.9}
    first = fg.SparseOptimizer(torch.optim.SGD(model.parameters(), **options), choose(model, 0.4))
    gradients(model, 0)
    first.step()
    for ratio, seed in ((0.6, 2), (0.4, 3)):
        other = fg.SparseOptimizer(torch.optim.SGD(model.parameters(), **options), choose(model, ratio, seed))
        with pytest.raises(ValueError, match="saved for another selection"):
            other.load_state_dict(first.state_dict())
        saved = first.state_dict()
        del saved["selection"]
        if ratio == 0.6:
            with pytest.raises(ValueError, match=r"momentum_buffer of parameter 0 has shape .* neither the"):
                other.load_state_dict(saved)
        assert not other.state
    adam = fg.SparseOptimizer(torch.optim.AdamW(model.parameters()), choose(model, 0.4))
    gradients(model, 0)
    adam.step()
    broken = adam.state_dict()
    broken["state"] = {number: {"exp_avg": state["exp_avg"]} for number, state in broken["state"].items()}
    with pytest.raises(ValueError, match="the state of parameter 0 has no step"):
        adam.load_state_dict(broken)
    small = fg.SparseOptimizer(torch.optim.SGD(model[0].parameters(), **options), choose(model[0]))
    with pytest.raises(ValueError, match="doesn't match the size"):
        small.load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="different number of parameter groups"):
        small.load_state_dict({"state": {}, "param_groups": []})


def test_an_optimizer_is_collected_though_its_parameters_live(mlp: Any, choose: Any, loss_of: Any) -> None:
    model = mlp()
    optimizer = fg.SparseOptimizer(torch.optim.AdamW(model.parameters()), choose(model), free_grads=True)
    del optimizer
    gc.collect()
    loss_of(model).backward()
    assert all(p.grad is not None and p.grad.layout == torch.strided for p in model.parameters())


def test_frozen_and_foreign_parameters_have_no_state(mlp: Any, choose: Any, gradients: Any) -> None:
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = fg.SparseOptimizer(torch.optim.AdamW(model.parameters(), lr=0.1), choose(model, 1.0))
    was = model[0].weight.detach().clone()
    gradients(model, 0)
    optimizer.step()
    assert set(optimizer.state) == set(model[2].parameters())
    assert model[0].weight.equal(was)
    dense = torch.optim.AdamW(nn.Sequential(*model).parameters())
    gradients(model, 0)
    dense.step()
    optimizer.load_state_dict(dense.state_dict())
    assert set(optimizer.state) == set(model[2].parameters())


def refused(optimizer: fg.SparseOptimizer, state: dict[str, Any], words: str) -> None:
    was = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=words):
        optimizer.load_state_dict(state)
    now = optimizer.state_dict()
    assert str(now["param_groups"]) == str(was["param_groups"])
    assert now["state"].keys() == was["state"].keys()
    for number, held in was["state"].items():
        assert held.keys() == now["state"][number].keys()
        assert all(torch.equal(now["state"][number][name], value) for name, value in held.items())


def stepped(optimizer: torch.optim.Optimizer, model: nn.Module, gradients: Any) -> Any:
    gradients(model, 0)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("saved_by", ["SparseOptimizer", "torch"])
@pytest.mark.parametrize(
    ("kind", "options", "source", "words"),
    [
        (torch.optim.SGD, {"momentum": 0.9}, torch.optim.Adam(nn.Linear(1, 1).parameters()), "no 'momentum'"),
        (torch.optim.Adam, {}, torch.optim.SGD(nn.Linear(1, 1).parameters(), momentum=0.9), "no 'betas'"),
        (torch.optim.AdamW, {}, torch.optim.SGD(nn.Linear(1, 1).parameters()), "no 'betas'"),
    ],
    ids=["Adam into SGD", "SGD into Adam", "SGD into AdamW"],
)
def test_a_state_of_another_kind_of_optimizer_is_refused(
    kind: Any, options: Any, source: Any, words: str, saved_by: str, mlp: Any, choose: Any, gradients: Any
) -> None:
    theirs, ours = mlp(), mlp()
    other = type(source)(theirs.parameters(), **({"momentum": 0.9} if type(source) is torch.optim.SGD else {}))
    other = fg.SparseOptimizer(other, choose(theirs)) if saved_by == "SparseOptimizer" else other
    optimizer = fg.SparseOptimizer(kind(ours.parameters(), lr=0.25, **options), choose(ours))
    stepped(optimizer, ours, gradients)
    refused(optimizer, stepped(other, theirs, gradients).state_dict(), f"group 0 has {words}: it is another optimizer")


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (torch.optim.RMSprop, torch.optim.SGD),
        (torch.optim.NAdam, torch.optim.Adam),
        (torch.optim.RAdam, torch.optim.AdamW),
        (torch.optim.Adamax, torch.optim.Adam),
    ],
)
def test_a_state_of_an_optimizer_that_is_not_supported_is_refused(
    source: Any, kind: Any, mlp: Any, choose: Any, gradients: Any
) -> None:
    theirs, ours = mlp(), mlp()
    optimizer = stepped(fg.SparseOptimizer(kind(ours.parameters(), lr=0.1), choose(ours)), ours, gradients)
    refused(optimizer, stepped(source(theirs.parameters()), theirs, gradients).state_dict(), "another optimizer's")


def test_a_state_with_another_kinds_keys_is_refused(mlp: Any, choose: Any, gradients: Any) -> None:
    model = mlp()
    optimizer = stepped(fg.SparseOptimizer(torch.optim.Adam(model.parameters()), choose(model)), model, gradients)
    saved = optimizer.state_dict()
    saved["state"] = {**saved["state"], 3: {"momentum_buffer": torch.zeros(3)}}
    refused(optimizer, saved, "the state of parameter 3 has 'momentum_buffer': it is another optimizer's")
    saved = optimizer.state_dict()
    saved["param_groups"] = [{**saved["param_groups"][0], "momentum": 0.9}]
    refused(optimizer, saved, "group 0 has 'momentum': it is another optimizer's")


def test_adamw_stays_decoupled_whatever_it_loads(mlp: Any, choose: Any, gradients: Any) -> None:
    theirs, ours = mlp(), mlp()
    dense = stepped(torch.optim.Adam(theirs.parameters(), weight_decay=0.1), theirs, gradients)
    optimizer = fg.SparseOptimizer(torch.optim.AdamW(ours.parameters()), choose(ours))
    optimizer.load_state_dict(dense.state_dict())
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("step", torch.zeros(2), r"step of parameter 3 must be one number, got float32 of shape \(2,\)"),
        ("step", torch.tensor(1j), "step of parameter 3 must be one number, got complex64"),
        ("step", torch.tensor(-1.0), "step of parameter 3 must be >= 0"),
        ("step", None, "step of parameter 3 must be a tensor of one number, got None"),
        ("step", "x", "step of parameter 3 must be a tensor of one number, got 'x'"),
        ("exp_avg", torch.zeros(3).to(torch.complex64), "exp_avg of parameter 3 must be a floating-point tensor"),
        ("exp_avg_sq", torch.zeros(3, dtype=torch.int64), "exp_avg_sq of parameter 3 must be a .* got int64"),
        ("exp_avg", [0.0, 0.0, 0.0], r"exp_avg of parameter 3 must be a .* got \[0.0"),
        ("exp_avg", "x", "exp_avg of parameter 3 must be a .* got 'x'"),
    ],
)
def test_a_state_that_no_step_can_use_is_refused(
    key: str, value: Any, words: str, mlp: Any, choose: Any, gradients: Any
) -> None:
    model = mlp()
    optimizer = stepped(fg.SparseOptimizer(torch.optim.Adam(model.parameters()), choose(model)), model, gradients)
    saved = optimizer.state_dict()
    saved["state"] = {**saved["state"], 3: {**saved["state"][3], key: value}}
    refused(optimizer, saved, words)


@pytest.mark.parametrize(("name", "value"), [("lr", float("nan")), ("betas", (0.9, 1.0)), ("eps", None)])
def test_a_saved_number_that_no_step_can_use_is_refused(
    name: str, value: Any, mlp: Any, choose: Any, gradients: Any
) -> None:
    model = mlp()
    optimizer = stepped(fg.SparseOptimizer(torch.optim.Adam(model.parameters()), choose(model)), model, gradients)
    saved = optimizer.state_dict()
    saved["param_groups"] = [{**saved["param_groups"][0], name: value}]
    refused(optimizer, saved, f"{name} of param group 0 must be")


def test_a_plain_step_count_of_old_torch_is_taken(mlp: Any, choose: Any, gradients: Any) -> None:
    model = mlp()
    optimizer = stepped(fg.SparseOptimizer(torch.optim.Adam(model.parameters()), choose(model)), model, gradients)
    saved = optimizer.state_dict()
    saved["state"] = {number: {**state, "step": 7} for number, state in saved["state"].items()}
    optimizer.load_state_dict(saved)
    optimizer.step()
    assert {int(state["step"]) for state in optimizer.state.values()} == {8}


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("way", ["load_state_dict", "wrapping"])
def test_what_is_loaded_is_a_copy(kind: Any, options: dict[str, Any], way: str, mlp: Any, gradients: Any) -> None:
    model = mlp()
    shapes = [tuple(p.shape) for p in model.parameters()]
    everything = fg.Selection(shapes, [torch.arange(p.numel()) for p in model.parameters()])
    source: torch.optim.Optimizer = kind(model.parameters(), **options)
    if way == "load_state_dict":
        source = fg.SparseOptimizer(source, everything)
    stepped(source, model, gradients)
    was = copy.deepcopy(source.state_dict()["state"])
    if way == "load_state_dict":
        loaded = fg.SparseOptimizer(kind(model.parameters(), **options), everything)
        loaded.load_state_dict(source.state_dict())
    else:
        loaded = fg.SparseOptimizer(source, everything)
    loaded.step()
    for number, state in source.state_dict()["state"].items():
        assert all(torch.equal(value, was[number][key]) for key, value in state.items())


def test_loading_for_a_changed_parameter_is_refused(mlp: Any, choose: Any, gradients: Any) -> None:
    model = mlp()
    optimizer = stepped(fg.SparseOptimizer(torch.optim.Adam(model.parameters()), choose(model)), model, gradients)
    model[2].to(torch.float64)
    refused(optimizer, optimizer.state_dict(), "parameter 2 was float32 .* and is float64 .* now")
