"""What ranks do with selections of sharded tensors; each returns what went wrong, or asserts."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import fgunlearn as fg
from fgunlearn.distributed import ShardedSelection, layout_of
from fgunlearn.distributed.agreement import agree
from fgunlearn.distributed.processes import processes_of
from on_ranks.models import MESHES, fsdp, mesh_of, mlp, placements, spread, whole


def models(size: int) -> list[tuple[str, Any]]:
    """Every sharding of the model that so many ranks allow."""
    made = []
    for shape in MESHES[size]:
        made.append((f"fsdp {shape}", fsdp(mlp(), shape)))
        mesh = mesh_of(shape)
        made += [(f"{shape} {places}", spread(mlp(), mesh, places)) for places in placements(len(shape))]
    return made


def selections(rank: int, size: int, folder: Path) -> None:
    plain = mlp()
    one = fg.select(plain, [], None, fg.RandomK(0.3, seed=1))
    other = fg.select(plain, [], None, fg.RandomK(0.5, seed=2))
    dense = one.masks()
    for label, model in models(size):
        sharded, theirs = one.shard(model), other.shard(model)
        assert isinstance(sharded, ShardedSelection), label
        assert (sharded.k, sharded.numel, sharded.ratio, len(sharded)) == (one.k, one.numel, one.ratio, one.k), label
        assert sharded.shapes == one.shapes, label
        assert sharded.names == one.names, label
        assert sharded.seed == 1, label
        assert sharded.density() == one.density(), label
        assert f"k={one.k}" in repr(sharded), label
        assert f"rank={rank} of {size}" in repr(sharded), label
        for mask, parameter, expected in zip(sharded.masks(), model.parameters(), dense, strict=True):
            assert mask.placements == parameter.placements, label
            assert whole(mask).equal(expected), label
        for index, layout, parameter in zip(sharded.indices, sharded.layouts, model.parameters(), strict=True):
            assert layout == layout_of(parameter), label
            local = parameter.to_local().detach().reshape(-1)[index.long()]
            assert local.equal(whole(parameter).detach().reshape(-1)[layout.to_global(index)]), label
        full = sharded.full()
        assert type(full) is fg.Selection, label
        assert full == one, label
        assert full.indices[0].dtype == torch.int32, label
        assert sharded == one, label
        assert one == sharded, label
        assert sharded != other, label
        assert other != sharded, label
        assert sharded != theirs, label
        for mixed in ((sharded, theirs), (sharded, other), (one, theirs)):
            assert (mixed[0] | mixed[1]) == (one | other), label
            assert (mixed[0] & mixed[1]) == (one & other), label
            assert (mixed[0] - mixed[1]) == (one - other), label
            assert isinstance(mixed[0] - mixed[1], ShardedSelection), label
        assert (sharded - theirs).k == (one - other).k, label
        assert copy.deepcopy(sharded) is sharded, label
        with pytest.raises(TypeError, match="save"):
            pickle.dumps(sharded)
        assert sharded.to("cpu") == sharded, label
        path = folder / "selection.safetensors"
        sharded.save(path)
        back = ShardedSelection.load(path)
        assert back == one, label
        assert back.shard(model).indices[0].equal(sharded.indices[0]), label
        if rank == 0:
            assert [p.name for p in folder.glob("*.part")] == []
    again = one.shard(fsdp(mlp(), MESHES[size][0])).shard(spread(mlp(), mesh_of((size,)), next(iter(placements(1)))))
    assert again == one


def alike_on_one_rank_only(rank: int, size: int) -> None:
    """Two ways to divide a tensor that give the first rank the same part, and the others not."""
    from torch.distributed.tensor import Replicate, Shard

    group = torch.distributed.group.WORLD
    keys = torch.arange(6.0) % 4
    one, other = (fg.topk([keys.split(rows)[rank]], k=k, group=group) for rows, k in (([2, 1, 3], 3), ([2, 3, 1], 4)))
    assert (one | other) == fg.topk([keys], k=4)
    assert (other - one) == fg.topk([keys], k=4) - fg.topk([keys], k=3)
    mesh = mesh_of((size,))
    model = torch.nn.Linear(1, 1)
    first, second = (spread(copy.deepcopy(model), mesh, places) for places in ((Shard(0),), (Replicate(),)))
    selection = fg.select(model, [], None, fg.RandomK(k=2))
    moved = selection.shard(first).shard(second)
    assert moved == selection
    assert [len(index) for index in moved.indices] == [1, 1]
    with pytest.raises(ValueError, match="another way than the model"):
        fg.perturb_(second, selection.shard(first), fg.Zero())


def refusals(rank: int, size: int, folder: Path) -> list[str]:
    """The words of errors, all of which every rank must see."""
    from torch.distributed.tensor import DTensor, Partial, Shard

    said = []

    def refused(call: Any) -> None:
        try:
            call()
        except (TypeError, ValueError, RuntimeError, OSError) as error:
            said.append(f"{type(error).__name__}: {error}")
        else:
            said.append("nothing")

    mesh = mesh_of((size,))
    partial = DTensor.from_local(torch.ones(3), mesh, [Partial()], run_check=False)
    refused(lambda: layout_of(partial, "parameter 'weight'"))
    wrong = DTensor.from_local(torch.ones(3 + rank), mesh, [Shard(0)], run_check=False, shape=(40,), stride=(1,))
    refused(lambda: layout_of(wrong, "parameter 'bias'"))
    model = fsdp(mlp(), (size,))
    selection = fg.select(mlp(), [], None, fg.RandomK(0.3))
    refused(lambda: selection.shard(model).save(folder / "missing" / "selection"))
    mixed = {"a": next(iter(model.parameters())).detach(), "b": torch.ones(2)}
    refused(lambda: processes_of(mixed))
    refused(lambda: processes_of({"a": torch.ones(2)}, group="all"))
    return said


def agreements(rank: int, size: int) -> list[str]:
    processes = processes_of({}, torch.distributed.group.WORLD)
    assert processes is not None
    agree(processes, "test", lambda: {"strategy": fg.TopK(0.1), "seed": 1})
    said = []

    def broken() -> dict[str, Any]:
        if rank == 1:
            raise ValueError("k must be >= 0, got -1")
        return {"seed": 1, "strategy": 2}

    for facts in (
        lambda: {"strategy": fg.TopK(0.2 if rank == 1 else 0.1), "seed": 1},
        lambda: {"names": ["a" * 300, "b" if rank else "c"], "seed": 1},
        broken,
    ):
        try:
            agree(processes, "test", facts)
        except ValueError as error:
            said.append(str(error))
    return said
