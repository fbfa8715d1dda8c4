"""Reading and writing the selected coordinates. Kernels: ``csrc/cpu/gather.cpp``, ``csrc/cuda/gather.cu``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fgunlearn.ops.versions import mark_written

_ops = torch.ops.fgunlearn


def sparse_gather(tensors: Sequence[Tensor], indices: Sequence[Tensor]) -> list[Tensor]:
    """The selected coordinates of each tensor, bit for bit. Not differentiable; :func:`sparse_take` is.

    Args:
        tensors: tensors of any shapes and strides, on one device.
        indices: per tensor 1-D int32 or int64 C-order flat indices on that device, strictly ascending.

    Returns:
        Per tensor a 1-D tensor of its dtype with one value per index.

    Raises:
        RuntimeError: a wrong dtype or device; on the CPU an index out of range or out of order (tensor, position and
            value are named). On CUDA, where a look at the indices would wait for the device, an index out of range
            stops the kernel, as in torch's own indexing: CUDA is of no more use to the process then.
    """
    return _ops.sparse_gather(list(tensors), list(indices))


def sparse_gather_ref(tensors: Sequence[Tensor], indices: Sequence[Tensor]) -> list[Tensor]:
    """Specification of :func:`sparse_gather`."""
    return [t.reshape(-1)[index.long()] for t, index in zip(tensors, indices, strict=True)]


def sparse_scatter_(tensors: Sequence[Tensor], indices: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Writes one value per index into each tensor, in place; every other bit stays.

    Args:
        tensors: tensors of any shapes and strides, but not expanded; on one device.
        indices: as for :func:`sparse_gather`.
        values: per tensor a 1-D tensor of its dtype, one value per index.

    Raises:
        RuntimeError: as :func:`sparse_gather`, or values that don't fit; the tensors are unchanged.
    """
    _ops.sparse_scatter_(list(tensors), list(indices), list(values))
    mark_written(tensors)


def sparse_scatter_ref(tensors: Sequence[Tensor], indices: Sequence[Tensor], values: Sequence[Tensor]) -> list[Tensor]:
    """Specification of :func:`sparse_scatter_`: the new tensors, contiguous."""
    return [
        t.reshape(-1).clone().index_copy(0, index.long(), v).reshape(t.shape)
        for t, index, v in zip(tensors, indices, values, strict=True)
    ]


@torch.library.register_fake("fgunlearn::sparse_gather")
def _(tensors: list[Tensor], indices: list[Tensor]) -> list[Tensor]:
    return [t.new_empty(index.shape) for t, index in zip(tensors, indices, strict=True)]


@torch.library.register_fake("fgunlearn::sparse_scatter_")
def _(tensors: list[Tensor], indices: list[Tensor], values: list[Tensor]) -> None:
    return None
