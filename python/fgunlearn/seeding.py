"""Random weights that are a function of a seed, at no one else's expense."""

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
