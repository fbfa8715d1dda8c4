"""Philox4x32-10 in plain PyTorch: the specification of every random bit the kernels draw (``csrc/core/philox.h``).

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def _mul_hi_lo(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    # 32x32 -> 64 bits in int64 without overflow: split b into 16-bit halves.
    low = a * (b & 0xFFFF)
    high = a * (b >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox4x32_ref(seed: int, stream: int, counter: Tensor, turn: int = 0) -> Tensor:
    """Four random 32-bit words per counter.

    Args:
        seed: 64-bit key.
        stream: third counter word; the purpose, so that two uses of one seed share no bits.
        counter: int64 tensor, the low 64 bits of the counter.
        turn: fourth counter word, 32 bits, for draws that are repeated at the same counter.

    Returns:
        int64 tensor of shape (4, *counter.shape) with values in [0, 2**32).
    """
    c0, c1 = counter & _MASK, (counter >> 32) & _MASK
    c2, c3 = torch.full_like(counter, stream), torch.full_like(counter, turn)
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(10):
        hi0, lo0 = _mul_hi_lo(0xD2511F53, c0)
        hi1, lo1 = _mul_hi_lo(0xCD9E8D57, c2)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return torch.stack([c0, c1, c2, c3])


def philox_word_ref(seed: int, stream: int, index: Tensor) -> Tensor:
    """One random 32-bit word per global index: 16 counters serve 64 indices (int64, same shape as index)."""
    words = philox4x32_ref(seed, stream, (index >> 6) * 16 + (index & 15))
    return words.gather(0, ((index >> 4) & 3).unsqueeze(0)).squeeze(0)
