"""What ranks do to perturb a sharded model: the values must be those of a single process."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fgunlearn as fg
from on_ranks.models import MESHES, fsdp, mesh_of, mlp, placements, same_bits, spread, whole_parameters

HOW = [
    fg.Gaussian(0.5, seed=3),
    fg.Gaussian(0.5, relative=False, seed=4),
    fg.Reset(seed=5),
    fg.Shrink(0.5),
    fg.Zero(),
]


def perturbed(rank: int, size: int) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for how in HOW:
            alone = mlp(dtype=dtype)
            selection = fg.select(alone, [], None, fg.RandomK(0.4, seed=1))
            fg.perturb_(alone, selection, how)
            expected = whole_parameters(alone)
            for shape in MESHES[size]:
                mesh = mesh_of(shape)
                models: list[nn.Module] = [fsdp(mlp(dtype=dtype), shape)]
                models += [spread(mlp(dtype=dtype), mesh, places) for places in placements(len(shape))]
                for model in models:
                    given = selection if how != fg.Zero() else selection.shard(model)
                    assert fg.perturb_(model, given, how) is model
                    for name, value in whole_parameters(model).items():
                        assert same_bits(value, expected[name]), (
                            dtype,
                            how,
                            name,
                            dict(model.named_parameters())[name],
                        )


def part_that_is_not_contiguous(rank: int, size: int) -> None:
    from torch.distributed.tensor import DTensor, Shard

    mesh = mesh_of((size,))
    alone = nn.Linear(6, 4)
    selection = fg.select(alone, [], None, fg.RandomK(0.5))
    model = nn.Linear(6, 4)
    model.load_state_dict(alone.state_dict())
    part = model.weight.detach().chunk(size, 1)[rank].t().contiguous().t()
    model.weight = nn.Parameter(DTensor.from_local(part, mesh, [Shard(1)], run_check=False))
    model.bias = nn.Parameter(DTensor.from_local(model.bias.detach().chunk(size)[rank], mesh, [Shard(0)]))
    assert not model.weight.to_local().is_contiguous()
    fg.perturb_(model, selection, fg.Gaussian(1.0))
    fg.perturb_(alone, selection, fg.Gaussian(1.0))
    for name, value in whole_parameters(model).items():
        assert same_bits(value, whole_parameters(alone)[name]), name


def refusals(rank: int, size: int) -> list[str]:
    said = []
    model = fsdp(mlp(), (size,))
    before = whole_parameters(model)
    selection = fg.select(mlp(), [], None, fg.RandomK(0.4))
    other = fg.select(mlp(), [], None, fg.RandomK(0.4, seed=rank))
    for chosen, how in ((selection, fg.Gaussian(0.1, seed=rank)), (other, fg.Zero())):
        with pytest.raises(ValueError, match="agree") as caught:
            fg.perturb_(model, chosen, how)
        said.append(str(caught.value))
    with pytest.raises(ValueError, match="another way than the model"):
        fg.perturb_(spread(mlp(), mesh_of((size,)), list(placements(1))[1]), selection.shard(model), fg.Zero())
    with pytest.raises(ValueError, match="not made of DTensors"):
        fg.perturb_(mlp(), selection.shard(model), fg.Zero())
    with pytest.raises(ValueError, match="Ascent needs loader") as caught:
        fg.perturb_(model, selection, fg.Ascent(0.1), loader=[] if rank else None)
    said.append(str(caught.value).split(": ")[-1])
    for name, value in whole_parameters(model).items():
        assert same_bits(value, before[name])
    with torch.no_grad():
        part = model[0].weight.to_local()
        if rank == size - 1:
            part.view(-1)[0] = float("inf")
    with pytest.raises(ValueError, match=r"'0.weight' holds NaN or infinity") as caught:
        fg.perturb_(model, selection, fg.Gaussian(0.1))
    said.append(str(caught.value))
    return said
