"""The processes that work together, and the few ways in which they talk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from fgunlearn.distributed.layout import is_dtensor


@dataclass(frozen=True)
class Processes:
    """The processes of a group, as seen by one of them. Every method is to be called by all of them.

    Attributes:
        groups: one ``torch.distributed`` process group of all of them; or, of a mesh of several dimensions, this
            process's group along each of these.
        device: where the tensors lie that are sent.
    """

    groups: tuple[Any, ...]
    device: torch.device

    @property
    def rank(self) -> int:
        """This process's number among them, in the mesh's order."""
        rank = 0
        for group in self.groups:
            rank = rank * torch.distributed.get_world_size(group) + torch.distributed.get_rank(group)
        return rank

    @property
    def size(self) -> int:
        """The number of processes."""
        return prod(torch.distributed.get_world_size(group) for group in self.groups)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes, on the device the tensor is on; the tensor itself may be overwritten."""
        sent = tensor.to(self.device).contiguous()
        for group in self.groups:
            torch.distributed.all_reduce(sent, group=group)
        return sent.to(tensor.device)

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, of one shape, stacked in the order of ranks."""
        sent = tensor.to(self.device).contiguous()
        for group in reversed(self.groups):
            received = [torch.empty_like(sent) for _ in range(torch.distributed.get_world_size(group))]
            torch.distributed.all_gather(received, sent, group=group)
            sent = torch.stack(received)
        return sent.reshape(self.size, *tensor.shape).to(tensor.device)

    def gather_ragged(self, vector: Tensor) -> list[Tensor]:
        """The vectors of all processes, of any lengths, in the order of ranks."""
        lengths = self.gather(torch.tensor([len(vector)], dtype=torch.int64)).reshape(-1).tolist()
        padded = vector.new_zeros(max(lengths))
        padded[: len(vector)] = vector
        return [row[:length] for row, length in zip(self.gather(padded), lengths, strict=True)]

    def gather_texts(self, text: str) -> list[str]:
        """The texts of all processes; what has no UTF-8, such as the odd bytes of a file's name, is escaped."""
        sent = torch.frombuffer(bytearray(text.encode(errors="backslashreplace") or b"\0"), dtype=torch.uint8)
        return [bytes(row.tolist()).decode().rstrip("\0") for row in self.gather_ragged(sent)]


def processes_of(tensors: Mapping[str, Tensor], group: Any = None) -> Processes | None:
    """The processes that hold the tensors together: those of the group, or of the DTensors' mesh.

    Args:
        tensors: by label, on one device; either all DTensors, on meshes of the same ranks, or none.
        group: a process group; with DTensors, of their mesh's ranks, and not needed.

    Returns:
        None without a group and without DTensors.

    Raises:
        TypeError: ``group`` is not a process group.
        ValueError: torch.distributed is not initialised; this process is not in the group; DTensors beside plain
            tensors, or on meshes of other ranks than the group's.
    """
    sharded = {name: tensor for name, tensor in tensors.items() if is_dtensor(tensor)}
    if group is None and not sharded:
        return None
    check_group(group)
    device = next((tensor.device for tensor in tensors.values() if isinstance(tensor, Tensor)), torch.device("cpu"))
    plain = [name for name in tensors if name not in sharded]
    if sharded and plain:
        raise ValueError(
            f"{next(iter(sharded))} is a DTensor and {plain[0]} is not: distribute all of them, or none "
            "(torch.distributed.tensor.distribute_tensor with Replicate placements keeps one whole on every rank)"
        )
    ranks: list[int] = []
    mesh: Any = None
    for name, tensor in sharded.items():
        found = sorted(tensor.device_mesh.mesh.flatten().tolist())
        if ranks and found != ranks:
            raise ValueError(f"{name} is on a mesh of the ranks {found}, those before on one of {ranks}")
        # Of meshes of the same ranks every process has to take the same one.
        ranks, mesh = found, mesh or tensor.device_mesh
    if group is None:
        return Processes(_groups_of(mesh, ranks), device)
    if sharded and sorted(torch.distributed.get_process_group_ranks(group)) != ranks:
        raise ValueError(
            f"group has the ranks {torch.distributed.get_process_group_ranks(group)}, and the mesh of "
            f"{next(iter(sharded))} those of {ranks}: they must be the same"
        )
    return Processes((group,), device)


def check_group(group: Any) -> None:
    """Refuses what can't be talked over; None passes where torch.distributed is initialised.

    Raises:
        TypeError, ValueError: see :func:`processes_of`.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        raise ValueError("group: torch.distributed is not initialised: call torch.distributed.init_process_group first")
    if group is None:
        return
    if not isinstance(group, torch.distributed.ProcessGroup):
        raise TypeError(f"group must be a torch.distributed process group or None, got {group!r}")
    if torch.distributed.get_rank(group) < 0:
        raise ValueError("group: this process is not one of its ranks")


def _groups_of(mesh: Any, ranks: Sequence[int]) -> tuple[Any, ...]:
    world = torch.distributed.group.WORLD
    if mesh.ndim > 1 and sorted(torch.distributed.get_process_group_ranks(world)) == list(ranks):
        return (world,)
    return tuple(mesh.get_group(dimension) for dimension in range(mesh.ndim))
