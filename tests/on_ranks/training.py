"""What ranks do to train the selected coordinates of sharded models; the values must be those of one process."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fgunlearn as fg
from fgunlearn.distributed.checkpoint import OptimizerState
from on_ranks.models import (
    MESHES,
    batches,
    distributed,
    fsdp,
    mesh_of,
    mlp,
    placements,
    same_bits,
    spread,
    whole_parameters,
)

KINDS: list[tuple[Any, dict[str, Any]]] = [
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
    (torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.1, "amsgrad": True}),
]


def choose() -> fg.Selection:
    return fg.select(mlp(), [], None, fg.RandomK(0.4, seed=1))


def optimizer_of(model: nn.Module, kind: Any, options: dict[str, Any], **others: Any) -> fg.SparseOptimizer:
    return fg.SparseOptimizer(kind(model.parameters(), **options), choose(), model=model, **others)


def give_gradients(model: nn.Module, step: int) -> None:
    """The same gradients as any other sharding's, not as a backward pass rounds them."""
    generator = torch.Generator().manual_seed(step)
    for p in model.parameters():
        grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        p.grad = distributed(grad, p.device_mesh, p.placements) if hasattr(p, "device_mesh") else grad


def train(model: nn.Module, optimizer: fg.SparseOptimizer, steps: range) -> None:
    for step in steps:
        give_gradients(model, step)
        optimizer.step()


def assert_same(model: nn.Module, alone: nn.Module, label: object) -> None:
    expected = whole_parameters(alone)
    for name, value in whole_parameters(model).items():
        assert same_bits(value, expected[name]), (label, name)


def sharded(size: int, dtype: torch.dtype = torch.float32) -> list[tuple[str, nn.Module]]:
    made: list[tuple[str, nn.Module]] = []
    for shape in MESHES[size]:
        made.append((f"fsdp {shape}", fsdp(mlp(dtype=dtype), shape)))
        mesh = mesh_of(shape)
        made += [(f"{shape} {places}", spread(mlp(dtype=dtype), mesh, places)) for places in placements(len(shape))]
    return made


def steps(rank: int, size: int) -> None:
    for kind, options in KINDS:
        alone = mlp()
        train(alone, optimizer_of(alone, kind, options), range(3))
        for label, model in sharded(size):
            optimizer = optimizer_of(model, kind, options)
            with fg.no_drift(model, choose()):
                train(model, optimizer, range(3))
            assert_same(model, alone, (label, kind))
            for p, state in optimizer.state.items():
                k = optimizer._slots[p].k
                assert all(len(value) == k for key, value in state.items() if key != "step"), label
            again = optimizer_of(model, kind, options)
            again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            assert len(again.state) == len(optimizer.state)
            dense = kind(model.parameters(), **options)
            dense.state = {
                p: {key: p.detach().clone() if key != "step" else value for key, value in state.items()}
                for p, state in optimizer.state.items()
            }
            gathered = fg.SparseOptimizer(dense, choose(), model=model)
            for p, state in gathered.state.items():
                part = p.to_local().reshape(-1)[gathered._slots[p].index.long()].detach()
                assert all(value.equal(part) for key, value in state.items() if key != "step"), label


def rounding(rank: int, size: int) -> None:
    options: dict[str, Any] = {"stochastic_rounding": True, "seed": 7}
    kind, own = torch.optim.SGD, {"lr": 1e-3}
    alone = mlp(dtype=torch.bfloat16)
    train(alone, optimizer_of(alone, kind, own, **options), range(3))
    model = fsdp(mlp(dtype=torch.bfloat16), (size,))
    train(model, optimizer_of(model, kind, own, **options), range(3))
    assert_same(model, alone, "rounding")


def freed(rank: int, size: int) -> None:
    """Under FSDP2 the freed gradients step as the dense ones do, and clipping takes the norm of all ranks."""
    data = batches((4,) * size)[rank]
    for shape in MESHES[size]:
        kept, other = fsdp(mlp(), shape), fsdp(mlp(), shape)
        alone = mlp()
        optimizers = [
            optimizer_of(kept, *KINDS[1]),
            optimizer_of(other, *KINDS[1], free_grads=True),
            optimizer_of(alone, *KINDS[1]),
        ]
        x, y = (torch.cat(parts) for parts in zip(*batches((4,) * size), strict=True))
        for _ in range(2):
            norms = []
            for model, optimizer in zip((kept, other, alone), optimizers, strict=True):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(
                    model(x if model is alone else data[0]), y if model is alone else data[1]
                )
                loss.backward()
                if model is other:
                    for p in model.parameters():
                        assert p.grad is None or len(p.grad._local_tensor.selected) == optimizer._slots[p].k
                norms.append(fg.clip_grad_norm_(optimizer, 0.05))
                optimizer.step()
            assert norms[0].equal(norms[1])
            torch.testing.assert_close(norms[0], norms[2])
            everyones = [torch.zeros(()) for _ in range(size)]
            torch.distributed.all_gather(everyones, norms[0])
            assert all(norm.equal(norms[0]) for norm in everyones)
        assert_same(kept, other, shape)
        for name, value in whole_parameters(alone).items():
            torch.testing.assert_close(whole_parameters(kept)[name], value, rtol=1e-3, atol=1e-4)
        for model, optimizer in zip((kept, other), optimizers[:2], strict=True):  # micro-batches add up
            optimizer.zero_grad(set_to_none=False)
            for part in (slice(0, 1), slice(1, 4)):
                nn.functional.cross_entropy(model(data[0][part]), data[1][part]).backward()
            optimizer.step()
        assert_same(kept, other, shape)


def refusals(rank: int, size: int) -> None:
    model = fsdp(mlp(), (size,))
    columns = spread(mlp(), mesh_of((size,)), list(placements(1))[1])
    with pytest.raises(ValueError, match=r"freeze_untouched=True needs whole parameters, and '0.weight' is a DTensor"):
        optimizer_of(model, *KINDS[0], freeze_untouched=True)
    with pytest.raises(ValueError, match=r"'0.weight', placed .* several runs"):
        optimizer_of(columns, *KINDS[0], stochastic_rounding=True)
    with pytest.raises(ValueError, match=r"sharded in another way than parameter '0.weight'"):
        fg.SparseOptimizer(torch.optim.SGD(columns.parameters(), lr=1.0), choose().shard(model), model=columns)
    with pytest.raises(ValueError, match="is no DTensor"):
        fg.SparseOptimizer(torch.optim.SGD(mlp().parameters(), lr=1.0), choose().shard(model))
    optimizer = optimizer_of(model, *KINDS[0])
    give_gradients(model, 0)
    before = whole_parameters(model)
    first = next(iter(model.parameters()))
    first.grad = first.grad.redistribute(placements=next(p for p in placements(1) if p != first.placements))
    if optimizer._slots[first].k:
        with pytest.raises(ValueError, match="must have the parameter's placements"):
            optimizer.step()
    assert all(same_bits(value, before[name]) for name, value in whole_parameters(model).items())


def save(rank: int, size: int, sharding: int, folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    for number, (kind, options) in enumerate(KINDS):
        model = sharded(size)[sharding][1]
        optimizer = optimizer_of(model, kind, options)
        train(model, optimizer, range(3))
        model_state = dict(model.named_parameters())
        dcp.save({"optimizer": OptimizerState(optimizer), "model": model_state}, checkpoint_id=folder / str(number))


def load(rank: int, size: int, sharding: int, folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    for number, (kind, options) in enumerate(KINDS):
        alone = mlp()
        reference = optimizer_of(alone, kind, options)
        train(alone, reference, range(3))
        model = sharded(size)[sharding][1] if sharding >= 0 else mlp(seed=3)
        optimizer = optimizer_of(model, kind, {**options, "lr": 123.0})
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
        dcp.load(
            {"optimizer": OptimizerState(optimizer), "model": {n: p.detach() for n, p in model.named_parameters()}},
            checkpoint_id=folder / str(number),
        )
        assert optimizer.param_groups[0]["lr"] == options["lr"]
        assert_same(model, alone, sharding)
        for p, q in zip(model.parameters(), alone.parameters(), strict=True):
            assert p not in optimizer.state or optimizer.state[p].keys() == reference.state[q].keys()
        train(alone, reference, range(3, 5))
        train(model, optimizer, range(3, 5))
        assert_same(model, alone, sharding)
        if number == 0:
            other = fg.SparseOptimizer(
                kind(model.parameters(), **options), fg.select(mlp(), [], None, fg.RandomK(0.4, seed=2)), model=model
            )
            wrong = OptimizerState(optimizer).state_dict()
            with pytest.raises(ValueError, match="another selection"):
                OptimizerState(other).load_state_dict(wrong)
            assert not other.state


def state_of_nothing(rank: int, size: int) -> None:
    """An optimizer that took no step says so, and is loaded as such."""
    model = fsdp(mlp(), (size,))
    optimizer = optimizer_of(model, *KINDS[0])
    state = OptimizerState(optimizer).state_dict()
    assert all(isinstance(entry["momentum_buffer"], Tensor) for entry in state["state"].values())
    train(model, optimizer, range(1))
    OptimizerState(optimizer).load_state_dict(state)
    assert not optimizer.state
