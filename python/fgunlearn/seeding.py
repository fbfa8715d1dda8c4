"""Random weights that are a function of a seed, at no one else's expense; and seeds from seeds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's CPU generator starts from ``seed`` inside, and goes on where it was afterwards.

    No other device's is touched, which ``torch.manual_seed`` would seed as well and ``fork_rng`` not bring back.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def derived_seed(seed: int, position: int) -> int:
    """Another 64-bit seed for each position >= 0 (splitmix64)."""
    mask = 2**64 - 1
    z = (seed + (position + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    z ^= z >> 31
    return z - 2**64 if z >= 2**63 else z
