"""Where the part of a tensor that this process holds lies in the whole tensor."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

Spans = tuple[range, ...]
"""Of one dimension: ascending ranges of coordinates of the whole that come one after another in the part."""


@dataclass(frozen=True)
class Layout:
    """One process's part of a tensor: along each dimension some of the whole's coordinates, in ascending order.

    Both the part and the whole are numbered in C order, so that the part's flat index and the whole's ascend together.

    Attributes:
        shape: of the whole tensor.
        spans: per dimension which coordinates of the whole the part holds.
        first: whether this process counts the part's elements: of several that hold the same part one does.
        mesh: of a DTensor.
        placements: of a DTensor.
    """

    shape: tuple[int, ...]
    spans: tuple[Spans, ...]
    first: bool = True
    mesh: Any = field(default=None, compare=False, repr=False)
    placements: tuple[Any, ...] | None = field(default=None, compare=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Layout:
        return self  # immutable, and its mesh can't be copied

    @property
    def local_shape(self) -> tuple[int, ...]:
        """The shape of the part."""
        return tuple(sum(map(len, spans)) for spans in self.spans)

    @property
    def numel(self) -> int:
        """Elements of the whole."""
        return prod(self.shape)

    @property
    def local_numel(self) -> int:
        """Elements of the part."""
        return prod(self.local_shape)

    @property
    def offset(self) -> int | None:
        """The whole's flat index of the part's first element, if the part is one run of the whole; 0 if it is empty."""
        _, whole = self.runs
        if len(whole) == 0:
            return 0
        return int(whole[0]) if len(whole) == 1 else None

    @cached_property
    def runs(self) -> tuple[Tensor, Tensor]:
        """Where the runs begin that are contiguous in the part and in the whole: local and global flat indices.

        int64 of shape (runs,) on the CPU, ascending; an empty part has none.
        """
        local, whole = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
        if self.local_numel == 0:
            return local[:0], whole[:0]
        partial = [d for d, size in enumerate(self.shape) if self.local_shape[d] != size]
        last = partial[-1] if partial else -1
        for d in range(last + 1):
            # A span of the last dimension that is held in part is one run; of one before, each coordinate begins one.
            starts = [span if d < last else span[:1] for span in self.spans[d]]
            held = accumulate((len(span) for span in self.spans[d]), initial=0)
            of_part = [range(at, at + len(start)) for at, start in zip(held, starts, strict=False)]
            whole = _outer(whole, starts, prod(self.shape[d + 1 :]))
            local = _outer(local, of_part, prod(self.local_shape[d + 1 :]))
        return local, whole

    def to_global(self, index: Tensor) -> Tensor:
        """Flat indices into the whole, int64, of flat indices into the part; on the device they are on."""
        index = index.to(torch.int64)
        if index.numel() == 0:
            return index
        offset = self.offset
        if offset is not None:
            return index + offset
        local, whole = (starts.to(index.device) for starts in self.runs)
        run = torch.searchsorted(local, index, right=True) - 1
        return index + (whole - local)[run]

    def local_before(self, index: int) -> int:
        """How many of the part's elements come before this flat index into the whole."""
        return int(self.locals_before(torch.tensor([index])))

    def locals_before(self, index: Tensor) -> Tensor:
        """The same for each of a tensor of flat indices into the whole (int64); of its shape, on its device."""
        local, whole = (starts.to(index.device) for starts in self.runs)
        if len(local) == 0:
            return torch.zeros_like(index)
        run = torch.searchsorted(whole, index) - 1
        ends = torch.cat([local[1:], local.new_tensor([self.local_numel])])
        return torch.where(run < 0, 0, torch.minimum(index - whole[run] + local[run], ends[run]))

    def to_local(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the ascending flat indices into the whole this part holds.

        Returns:
            Positions in ``index`` and flat indices into the part, both int64 and ascending.
        """
        index = index.to(torch.int64)
        local, whole = (starts.to(index.device) for starts in self.runs)
        if local.numel() == 0 or index.numel() == 0:
            return index.new_empty(0), index.new_empty(0)
        lengths = torch.diff(local, append=local.new_tensor([self.local_numel]))
        run = torch.searchsorted(whole, index, right=True) - 1
        within = index - whole[run.clamp(min=0)]
        at = ((run >= 0) & (within < lengths[run.clamp(min=0)])).nonzero().reshape(-1)
        return at, (local[run[at]] + within[at])


def is_dtensor(tensor: object) -> TypeGuard[Any]:
    """Whether it is a ``torch.distributed.tensor.DTensor``; imports nothing that the caller hasn't."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_part(tensor: Tensor) -> Tensor:
    """The memory of a DTensor's part, detached; another tensor itself, detached."""
    if is_dtensor(tensor):
        with torch.no_grad():
            return tensor.to_local().detach()
    return tensor.detach()


def layout_of(tensor: Tensor, label: str = "tensor") -> Layout:
    """The layout of a DTensor; of another tensor that of a whole.

    Args:
        tensor: with placements Shard, also of several mesh dimensions, FSDP2's _StridedShard, or Replicate.
        label: its name in errors.

    Raises:
        TypeError: a Partial or another placement.
        ValueError: this process is not in the mesh, or holds another shape than the placements say.
    """
    shape = tuple(tensor.shape)
    if not is_dtensor(tensor):
        return Layout(shape, _whole(shape))
    coordinate = tensor.device_mesh.get_coordinate()
    if coordinate is None:
        raise ValueError(f"{label} is a DTensor on a mesh that this process is not part of: {tensor.device_mesh}")
    sizes = tuple(tensor.device_mesh.shape)
    layout = placed(shape, sizes, coordinate, tensor.placements, label)
    found = tuple(tensor._local_tensor.shape)
    if found != layout.local_shape:
        raise ValueError(
            f"{label} of shape {shape} and placements {tuple(tensor.placements)} has a local part of shape {found}, "
            f"where {layout.local_shape} was expected: only torch's own splits are known"
        )
    return replace(layout, mesh=tensor.device_mesh, placements=tuple(tensor.placements))


def distributed_as(like: Any, part: Tensor) -> Tensor:
    """A DTensor of this process's part, placed as ``like`` is."""
    return from_part(part, tuple(like.shape), like.device_mesh, like.placements)


def from_part(part: Tensor, shape: tuple[int, ...], mesh: Any, placements: Sequence[Any]) -> Tensor:
    """A DTensor of the given shape, of this process's part."""
    from torch.distributed.tensor import DTensor

    stride = torch.empty(shape, device="meta").stride()
    made: Tensor = DTensor.from_local(part, mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride)
    return made


def placed(
    shape: Sequence[int], mesh: Sequence[int], coordinate: Sequence[int], placements: Sequence[Any], label: str
) -> Layout:
    """The layout that torch's placements give a tensor at one coordinate of a mesh.

    Raises:
        TypeError: a placement other than Shard, _StridedShard or Replicate.
    """
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.placement_types import _StridedShard

    spans = list(_whole(shape))
    first = True
    for size, at, placement in zip(mesh, coordinate, placements, strict=True):
        if isinstance(placement, Replicate):
            first = first and at == 0
        elif isinstance(placement, _StridedShard):
            # As if the split into split_factor parts, a later mesh dimension's, had come before.
            d = placement.dim % len(shape)
            parts = int(placement.split_factor)
            spans[d] = _joined(_chunk(_chunk(spans[d], parts, p), size, at) for p in range(parts))
        elif isinstance(placement, Shard):
            d = placement.dim % len(shape)
            spans[d] = _chunk(spans[d], size, at)
        else:
            raise TypeError(
                f"{label} has the placement {placement}, and only Shard and Replicate say where its parts lie in the "
                "whole: redistribute it first"
            )
    return Layout(tuple(shape), tuple(spans), first)


def _chunk(spans: Spans, parts: int, position: int) -> Spans:
    """One part of the coordinates as ``torch.chunk`` splits them; later parts may be empty."""
    length = sum(map(len, spans))
    size = -(-length // parts)
    begin, end = min(size * position, length), min(size * (position + 1), length)
    taken = []
    at = 0
    for span in spans:
        low, high = max(begin - at, 0), min(end - at, len(span))
        if low < high:
            taken.append(span[low:high])
        at += len(span)
    return tuple(taken)


def _joined(parts: Iterable[Spans]) -> Spans:
    """The spans one after another, neighbours that touch made one."""
    joined: list[range] = []
    for span in (span for spans in parts for span in spans):
        if joined and joined[-1].stop == span.start:
            joined[-1] = range(joined[-1].start, span.stop)
        else:
            joined.append(span)
    return tuple(joined)


def concatenated(shape: Sequence[int], rows: Sequence[int], rank: int) -> Layout:
    """The layout of one of several local tensors whose concatenation along dimension 0 is the whole.

    Args:
        shape: of the local tensor, with at least one dimension.
        rows: of every rank the size of dimension 0.
        rank: whose tensor it is.
    """
    begin = sum(rows[:rank])
    own = range(begin, begin + rows[rank])
    return Layout((sum(rows), *shape[1:]), ((own,) if own else (), *_whole(shape[1:])))


def reshard(model: nn.Module) -> None:
    """Gives FSDP2 modules whose parameters are gathered, as after a forward pass, their sharded ones back."""
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    if kind is not None:
        for part in model.modules():
            if isinstance(part, kind):
                part.reshard()


def _whole(shape: Sequence[int]) -> tuple[Spans, ...]:
    return tuple((range(size),) if size else () for size in shape)


def _outer(starts: Tensor, spans: Sequence[range], step: int) -> Tensor:
    """Every start plus every coordinate times ``step``, in C order."""
    coordinates = [torch.arange(span.start, span.stop, dtype=torch.int64) for span in spans]
    return (starts[:, None] + torch.cat(coordinates) * step).reshape(-1)
