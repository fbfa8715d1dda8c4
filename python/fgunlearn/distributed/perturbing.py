"""What perturbing needs to know of sharded parameters: pieces whose noise is keyed by global index, and their rms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.distributed.layout import Layout, layout_of, local_part
from fgunlearn.distributed.processes import processes_of


@dataclass(frozen=True)
class Piece:
    """Memory of one tensor that lies in one run in the whole, and what is selected in it.

    Attributes:
        number: of the tensor.
        memory: the piece, sharing memory with the tensor's part (or with a copy of it).
        index: ascending flat indices into the piece.
        offset: the whole tensor's flat index of the piece's first element.
    """

    number: int
    memory: Tensor
    index: Tensor
    offset: int


class Pieces:
    """Tensors, or this process's parts of them, as pieces; :meth:`write_back` ends the work on them.

    Args:
        tensors: parameters, DTensors or not.
        indices: per tensor ascending flat indices into this process's part.
    """

    def __init__(self, tensors: Sequence[Tensor], indices: Sequence[Tensor]) -> None:
        self.pieces: list[Piece] = []
        self._copies: list[tuple[Tensor, Tensor, Tensor]] = []
        for number, (tensor, index) in enumerate(zip(tensors, indices, strict=True)):
            layout, part = layout_of(tensor), local_part(tensor)
            offset = layout.offset
            if offset is not None:
                self.pieces.append(Piece(number, part, index, offset))
                continue
            if not part.is_contiguous():
                copy = part.contiguous()
                self._copies.append((part, index, copy))
                part = copy
            self.pieces += _runs(number, part.view(-1), index, layout)

    def write_back(self) -> None:
        """Copies the selected values of parts that had to be copied to where they belong."""
        for part, index, copy in self._copies:
            ops.sparse_scatter_([part], [index], ops.sparse_gather([copy], [index]))


def _runs(number: int, part: Tensor, index: Tensor, layout: Layout) -> list[Piece]:
    """A piece for each run of the layout in which something is selected."""
    local, whole = layout.runs
    if index.numel() == 0:
        return []
    ends = [*local[1:].tolist(), len(part)]
    at = torch.searchsorted(local.to(index.device), index.to(torch.int64), right=True) - 1
    touched, counts = at.unique_consecutive(return_counts=True)
    pieces = []
    for run, chosen in zip(touched.tolist(), index.split(counts.tolist()), strict=True):
        begin = int(local[run])
        pieces.append(Piece(number, part[begin : ends[run]], chosen - begin, int(whole[run])))
    return pieces


def rms_of(tensors: Mapping[str, Tensor]) -> list[float]:
    """sqrt(mean(x^2)) of whole tensors, one all-reduce where they are DTensors.

    Rounded to 24 bits: the order of the sum, which differs between devices and shardings, shows only where a sum lies
    within its own rounding error of the middle between two such numbers, about once in 10**7.
    """
    processes = processes_of(tensors)
    parts = [local_part(tensor) for tensor in tensors.values()]
    means = ops.rms(parts)
    if processes is not None:
        layouts = [layout_of(tensor) for tensor in tensors.values()]
        counted = [layout.local_numel if layout.first else 0 for layout in layouts]
        squares = means.square() * torch.tensor(counted, dtype=torch.float64, device=means.device)
        # An empty part's mean is 0, and an uncounted one's infinity times 0 would be NaN.
        squares = torch.where(torch.tensor(counted, device=means.device) > 0, squares, 0.0)
        numels = torch.tensor([max(layout.numel, 1) for layout in layouts], dtype=torch.float64, device=means.device)
        means = (processes.sum(squares) / numels).sqrt()
    return [_rounded(mean) for mean in means.tolist()]


def _rounded(value: float) -> float:
    if not math.isfinite(value):
        return value
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(math.ldexp(mantissa, 24)), exponent - 24)
