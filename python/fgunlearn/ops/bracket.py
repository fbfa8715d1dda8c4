"""The passes from which an exact top-k is found when the keys are never all at hand.

A key is the bit pattern of |x| read as an integer: 31 bits of a float32 (float16 and bfloat16 widen to it exactly), or,
``wide``, 63 bits of a float64. Keys are ordered as the magnitudes are; infinity is ``INFINITY_KEY[wide]``, and what is
above it is NaN. Histograms of parts (shards, gradients one after another) add up to that of the whole, so a few of them
bracket the k-th largest key of all; a split then gives the coordinates above the bracket and those inside it.

Kernels: ``csrc/{cpu,cuda}/bracket.*``, rules in ``csrc/core/{select,bracket}.h``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fgunlearn.ops.devices import device_of
from fgunlearn.ops.select import empty_indices, index_dtype

INFINITY_KEY = {False: 0x7F80_0000, True: 0x7FF0_0000_0000_0000}
"""The key of infinity, the largest that is no NaN, by ``wide``."""

_ops = torch.ops.fgunlearn


def bracket_histogram(keys: Sequence[Tensor], low: int, shift: int, bins: int, wide: bool) -> Tensor:
    """How many keys lie in each of ``bins`` intervals of 2**shift keys, from ``low`` on, over all tensors together.

    One read of the keys. On CUDA the host waits for nothing, so that it can be captured into a CUDA graph.

    Args:
        keys: tensors of any shapes, on one device; float32, float16, bfloat16, and with ``wide`` float64, mixed if need
            be. A non-contiguous one is copied, others are read in place.
        low: the first key that is counted, >= 0.
        shift: log2 of an interval's width, 0 to 62.
        bins: how many intervals, 1 to 65,536. On CUDA up to 8,192 are counted in shared memory; beyond that every key
            that is counted costs an operation on global memory.
        wide: 63-bit keys of float64, to which other dtypes are widened exactly; else 31-bit keys of float32.

    Returns:
        int64 of shape (bins + 2,), on the keys' device. Element b < bins counts the keys >= low with
        ``(key - low) >> shift == b``; element ``bins`` those from ``low + (bins << shift)`` to infinity; element
        ``bins + 1`` the NaN, wherever ``low`` is. NaN are counted nowhere else, other keys below ``low`` nowhere.

    Raises:
        RuntimeError: low, shift or bins out of range, an unsupported dtype, float64 without ``wide``, or tensors on
            several devices.
    """
    return _ops.bracket_histogram(list(keys), low, shift, bins, wide)


def bracket_histogram_ref(keys: Sequence[Tensor], low: int, shift: int, bins: int, wide: bool) -> Tensor:
    """Specification of :func:`bracket_histogram`."""
    key = torch.cat([torch.empty(0, dtype=torch.int64), *(keys_ref(t, wide) for t in keys)])
    nan = key > INFINITY_KEY[wide]
    counted = key[~nan & (key >= low)] - low
    slots = torch.cat([(counted >> shift).clamp(max=bins), torch.full((int(nan.sum()),), bins + 1)])
    return torch.bincount(slots, minlength=bins + 2)


def bracket_split(keys: Sequence[Tensor], low: int, high: int, wide: bool) -> tuple[list[Tensor], list[Tensor]]:
    """The coordinates whose keys are at least ``high``, and those whose keys are in [low, high).

    One read of the keys. A NaN is above every number and not refused: callers look for one beforehand (the last element
    of :func:`bracket_histogram`). On CUDA the host waits for the number of indices of each tensor.

    Args:
        keys: as for :func:`bracket_histogram`.
        low: a key, >= 0.
        high: a key, >= low. One above infinity's selects nothing but NaN; beyond that, which NaN is unspecified.
        wide: as for :func:`bracket_histogram`.

    Returns:
        Two lists, above and between: per tensor ascending C-order flat indices, 1-D, on the keys' device; int32 where
        its numel < 2**31 and else int64.

    Raises:
        RuntimeError: low below 0 or above high, an unsupported dtype, float64 without ``wide``, or tensors on several
            devices.
    """
    return _ops.bracket_split(list(keys), low, high, wide)


def bracket_split_ref(keys: Sequence[Tensor], low: int, high: int, wide: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Specification of :func:`bracket_split`."""
    above, between = [], []
    for t in keys:
        key = keys_ref(t, wide)
        above.append((key >= high).nonzero().flatten().to(index_dtype(t.numel())))
        between.append(((key >= low) & (key < high)).nonzero().flatten().to(index_dtype(t.numel())))
    return above, between


def keys_ref(tensor: Tensor, wide: bool) -> Tensor:
    """Specification of a key: int64, 1-D, in C order."""
    if wide:
        return tensor.reshape(-1).double().view(torch.int64) & 0x7FFF_FFFF_FFFF_FFFF
    if tensor.dtype == torch.float64:
        raise ValueError("float64 has 63-bit keys: pass wide=True")
    return tensor.reshape(-1).float().view(torch.int32).to(torch.int64) & 0x7FFF_FFFF


@torch.library.register_fake("fgunlearn::bracket_histogram")
def _(keys: list[Tensor], low: int, shift: int, bins: int, wide: bool) -> Tensor:
    return torch.empty(bins + 2, dtype=torch.int64, device=device_of(keys))


@torch.library.register_fake("fgunlearn::bracket_split")
def _(keys: list[Tensor], low: int, high: int, wide: bool) -> tuple[list[Tensor], list[Tensor]]:
    numels, device = [t.numel() for t in keys], device_of(keys)
    return empty_indices(numels, device), empty_indices(numels, device)
