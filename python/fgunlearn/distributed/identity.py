"""Which coordinates a selection holds, in a few numbers that add up over the parts of its tensors."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fgunlearn.seeding import derived_seed

_STEP = 2**22  # coordinates hashed at once


def identity(indices: Iterable[tuple[int, Tensor]]) -> Tensor:
    """Two sums modulo 2**64 of hashes of the coordinates: int64 of shape (2,), on the CPU.

    A sum does not depend on order or on how tensors are divided among processes, so that the identity of a selection
    is the sum of its parts'. Two selections have one with a probability of about 2**-128.

    Args:
        indices: numbers of tensors, and flat indices into each whole tensor.
    """
    total = torch.zeros(2, dtype=torch.int64)
    for number, index in indices:
        for lane in (0, 1):
            salt = derived_seed(derived_seed(lane, 0), number)
            for part in index.split(_STEP):
                total[lane] += _mixed(part.to(torch.int64) ^ salt).sum().cpu()
    return total


def _mixed(z: Tensor) -> Tensor:
    """The finalizer of splitmix64, a bijection; int64 wraps around as uint64 does."""
    z = (z ^ _shifted(z, 30)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
    z = (z ^ _shifted(z, 27)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)
