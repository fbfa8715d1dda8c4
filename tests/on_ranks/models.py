"""Small models, their data, and the ways in which ranks can share them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

MESHES = {1: [(1,)], 2: [(2,), (2, 1)], 3: [(3,)], 4: [(4,), (2, 2)]}


def mlp(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """5 inputs, 3 classes; of 3 rows and fewer, so that with 4 ranks some have nothing of a tensor."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(5, 7, dtype=dtype), nn.Tanh(), nn.Linear(7, 3, dtype=dtype), nn.Tanh(), nn.Linear(3, 3, dtype=dtype)
    )


def samples(count: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=generator).to(dtype), torch.randint(0, 3, (count,), generator=generator)


def batches(sizes: tuple[int, ...] = (6, 6, 4), seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    x, y = samples(sum(sizes), seed)
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


def mesh_of(shape: tuple[int, ...]) -> DeviceMesh:
    return init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])


def fsdp(model: nn.Sequential, shape: tuple[int, ...]) -> nn.Sequential:
    """Sharded by FSDP2; with a mesh of two dimensions, replicated over the first (HSDP)."""
    mesh = mesh_of(shape)
    fully_shard(model[2], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def placements(dimensions: int) -> Iterator[tuple[Any, ...]]:
    """Of matrices: every way to place one on a mesh with so many dimensions that is worth a test."""
    if dimensions == 1:
        yield from ((Shard(0),), (Shard(1),), (Replicate(),))
    else:
        yield (Shard(0), Shard(1))
        yield (Shard(1), Shard(1))
        yield (Replicate(), Shard(1))
        yield (Shard(0), Replicate())
        yield (_StridedShard(0, split_factor=2), Shard(0))


def distributed(tensor: Tensor, mesh: DeviceMesh, places: tuple[Any, ...]) -> DTensor:
    """A DTensor of a tensor that every rank has."""
    if tensor.dim() < 2:
        places = tuple(place if isinstance(place, Replicate) or tensor.dim() else Replicate() for place in places)
        places = tuple(Shard(0) if isinstance(place, Shard) else place for place in places)
    return distribute_tensor(tensor.clone(), mesh, places, src_data_rank=None)


def spread(model: nn.Module, mesh: DeviceMesh, places: tuple[Any, ...]) -> nn.Module:
    """The model with DTensor parameters, by hand."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = nn.Parameter(distributed(parameter.detach(), mesh, places))
    return model


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_parameters(model: nn.Module) -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: whole(parameter).detach().clone() for name, parameter in model.named_parameters()}


def same_bits(one: Tensor, other: Tensor) -> bool:
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and one.contiguous().view(-1).view(torch.uint8).equal(other.contiguous().view(-1).view(torch.uint8))
    )
