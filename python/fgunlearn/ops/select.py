"""Exact selection of k coordinates over a list of tensors.

Kernels: ``csrc/{cpu,cuda}/select*``, rules in ``csrc/core/select.h``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fgunlearn.ops.devices import device_of
from fgunlearn.ops.philox import philox_word_ref

NARROW_INDEX_LIMIT = 2**31
"""Tensors with fewer elements get int32 indices, others int64."""

_ops = torch.ops.fgunlearn


def index_dtype(numel: int) -> torch.dtype:
    """The dtype of local flat indices into a tensor of ``numel`` elements."""
    return torch.int32 if numel < NARROW_INDEX_LIMIT else torch.int64


def topk_select(keys: Sequence[Tensor], k: int) -> tuple[list[Tensor], Tensor]:
    """The k coordinates with the largest |key| over all tensors together.

    Exact and deterministic: magnitudes are compared by value across dtypes, ties at the border go to the smallest
    global index (tensors one after another, each in C order), +0 and -0 are equal, infinities are largest.

    On CUDA the host waits for the number of indices of each tensor; :func:`topk_select_packed` does not.

    Args:
        keys: tensors of any shapes, on one device; float32, float64, float16, bfloat16, mixed if need be. A
            non-contiguous one is copied, others are read in place.
        k: how many, 0 <= k <= total number of elements.

    Returns:
        On the keys' device, per tensor its selected C-order flat indices, ascending, 1-D, int32 where its numel < 2**31
        and else int64; and the threshold, the smallest selected |key|, as a float64 tensor of shape (1,) (infinity for
        k = 0).

    Raises:
        RuntimeError: k out of range, an unsupported dtype, tensors on several devices, or a NaN among the keys (tensor
            and count are named).
    """
    return _ops.topk_select(list(keys), k)


def topk_select_ref(keys: Sequence[Tensor], k: int) -> tuple[list[Tensor], Tensor]:
    """Specification of :func:`topk_select`: a stable descending sort of all magnitudes in float64."""
    values = torch.cat([t.reshape(-1).abs().double() for t in keys]) if keys else torch.empty(0, dtype=torch.float64)
    order = torch.sort(values, descending=True, stable=True).indices[:k]
    threshold = values[order].amin(dim=0, keepdim=True) if k > 0 else torch.full((1,), torch.inf, dtype=torch.float64)
    return split_global(order.sort().values, [t.numel() for t in keys]), threshold


def topk_select_each(keys: Sequence[Tensor], k: Sequence[int]) -> tuple[list[Tensor], Tensor]:
    """:func:`topk_select` of each tensor by itself, k[i] of tensor i; thresholds are float64 of shape (len(keys),)."""
    return _ops.topk_select_each(list(keys), list(k))


def topk_select_each_ref(keys: Sequence[Tensor], k: Sequence[int]) -> tuple[list[Tensor], Tensor]:
    """Specification of :func:`topk_select_each`."""
    each = [topk_select_ref([t], count) for t, count in zip(keys, k, strict=True)]
    thresholds = [threshold for _, threshold in each] or [torch.empty(0, dtype=torch.float64)]
    return [indices[0] for indices, _ in each], torch.cat(thresholds)


def topk_select_packed(keys: Sequence[Tensor], k: int) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`topk_select` with outputs whose sizes don't depend on the keys' values.

    On CUDA the host waits for nothing, so that it can be captured into a CUDA graph.

    Args:
        keys: as for :func:`topk_select`.
        k: as for :func:`topk_select`.

    Returns:
        indices: the selected flat indices of all tensors one after another, each ascending, of shape (k,); int32, or
            int64 where any tensor has 2**31 elements or more.
        offsets: int64 of shape (len(keys) + 1,); those of tensor t are ``indices[offsets[t]:offsets[t + 1]]``.
        threshold: as for :func:`topk_select`. On CUDA it is NaN where a key is NaN, and the indices mean nothing then.

    Raises:
        RuntimeError: as :func:`topk_select`; a NaN among the keys on the CPU only.
    """
    return _ops.topk_select_packed(list(keys), k)


def topk_select_packed_ref(keys: Sequence[Tensor], k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Specification of :func:`topk_select_packed`."""
    indices, threshold = topk_select_ref(keys, k)
    return *packed_ref(indices, [t.numel() for t in keys]), threshold


def packed_ref(indices: Sequence[Tensor], numels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The indices of several tensors one after another, and where each one's begin."""
    dtype = _packed_dtype(numels)
    offsets = torch.tensor([0, *(index.numel() for index in indices)], dtype=torch.int64).cumsum(0)
    return torch.cat([torch.empty(0, dtype=dtype), *(index.to(dtype) for index in indices)]), offsets


def _packed_dtype(numels: Sequence[int]) -> torch.dtype:
    return torch.int64 if any(index_dtype(numel) == torch.int64 for numel in numels) else torch.int32


def unpacked(packed: Tensor, offsets: Tensor, numels: Sequence[int]) -> list[Tensor]:
    """The indices of each tensor, in memory of their own, from what a packed selection gave; waits for ``offsets``."""
    ends = offsets.tolist()
    return [packed[ends[t] : ends[t + 1]].to(index_dtype(numel), copy=True) for t, numel in enumerate(numels)]


def empty_packed(numels: Sequence[int], k: int, thresholds: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What a packed selection of k coordinates returns, uninitialised."""
    return (
        torch.empty(k, dtype=_packed_dtype(numels), device=device),
        torch.empty(len(numels) + 1, dtype=torch.int64, device=device),
        torch.empty(thresholds, dtype=torch.float64, device=device),
    )


def randomk_select(
    numels: Sequence[int],
    k: int,
    seed: int,
    base: Sequence[Tensor] = (),
    *,
    device: torch.device | str | None = None,
) -> list[Tensor]:
    """A uniform k-subset of all coordinates, as the k largest Philox keys of (seed, global index).

    A pure function of its arguments: threads, devices and sharding do not change it, and nothing of size n is read.

    Args:
        numels: number of elements of each tensor.
        k: how many to draw.
        seed: any 64-bit integer.
        base: nothing, or one ascending int32/int64 index tensor per tensor: the subset is then drawn from the
            coordinates outside base, and returned united with it (k + len(base) indices in all).
        device: where the indices are made; None for base's device, or the CPU without a base.

    Returns:
        Per tensor ascending flat indices, as :func:`topk_select` gives them.

    Raises:
        ValueError: base on another device than ``device``.
        RuntimeError: k out of range, a base that does not fit.
    """
    base = list(base)
    if device is not None and base:
        # Of a device without a number, torch's current one is meant: as for every new tensor.
        wanted = torch.empty(0, device=device).device
        if base[0].device != wanted:
            raise ValueError(f"randomk_select: base is on {base[0].device} and device is {wanted}")
    elif device is not None:
        # Operators are chosen by their tensors' device: empty lists say which.
        base = [torch.empty(0, dtype=torch.int32, device=device) for _ in numels]
    return _ops.randomk_select(list(numels), k, seed, base)


def randomk_select_ref(numels: Sequence[int], k: int, seed: int, base: Sequence[Tensor] = ()) -> list[Tensor]:
    """Specification of :func:`randomk_select`: sort 63-bit keys, 31 bits of one Philox stream above 32 of another."""
    n = sum(numels)
    index = torch.arange(n, dtype=torch.int64)
    key = ((philox_word_ref(seed, 0, index) & 0x7FFFFFFF) << 32) | philox_word_ref(seed, 1, index)
    taken = join_global(base, numels) if base else torch.empty(0, dtype=torch.int64)
    key[taken] = -1
    drawn = torch.sort(key, descending=True, stable=True).indices[:k]
    return split_global(torch.cat([drawn, taken]).sort().values, numels)


def split_global(index: Tensor, numels: Sequence[int]) -> list[Tensor]:
    """Ascending global indices (int64) as one tensor of local flat indices per tensor."""
    ends = torch.tensor([0, *numels], dtype=torch.int64).cumsum(0)
    cuts = torch.searchsorted(index, ends)
    return [(index[cuts[t] : cuts[t + 1]] - ends[t]).to(index_dtype(numel)) for t, numel in enumerate(numels)]


def join_global(indices: Sequence[Tensor], numels: Sequence[int]) -> Tensor:
    """The inverse of :func:`split_global`: one ascending int64 tensor of global indices."""
    offset = 0
    parts = [torch.empty(0, dtype=torch.int64)]
    for local, numel in zip(indices, numels, strict=True):
        parts.append(local.to(torch.int64) + offset)
        offset += numel
    return torch.cat(parts)


def empty_indices(numels: Sequence[int], device: torch.device) -> list[Tensor]:
    """For fakes: one index tensor per tensor, of a length that only the values tell."""
    context = torch.library.get_ctx()
    return [torch.empty(context.new_dynamic_size(), dtype=index_dtype(numel), device=device) for numel in numels]


@torch.library.register_fake("fgunlearn::topk_select")
def _(keys: list[Tensor], k: int, exhaustive: bool = False) -> tuple[list[Tensor], Tensor]:
    device = device_of(keys)
    return empty_indices([t.numel() for t in keys], device), torch.empty(1, dtype=torch.float64, device=device)


@torch.library.register_fake("fgunlearn::topk_select_each")
def _(keys: list[Tensor], k: list[int]) -> tuple[list[Tensor], Tensor]:
    device = device_of(keys)
    return empty_indices([t.numel() for t in keys], device), torch.empty(len(keys), dtype=torch.float64, device=device)


@torch.library.register_fake("fgunlearn::topk_select_packed")
def _(keys: list[Tensor], k: int) -> tuple[Tensor, Tensor, Tensor]:
    return empty_packed([t.numel() for t in keys], k, 1, device_of(keys))


@torch.library.register_fake("fgunlearn::randomk_select")
def _(numels: list[int], k: int, seed: int, base: list[Tensor]) -> list[Tensor]:
    return empty_indices(numels, device_of(base))
