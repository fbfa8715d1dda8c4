"""Values on which selections stumble: ties, plateaus, zeros, infinities, orders that mislead a sample."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def gaussian(n: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(n))


KINDS: dict[str, Callable[[int], Tensor]] = {
    "gaussian": gaussian,
    "heavy tail": lambda n: gaussian(n) ** 9,
    "all equal": torch.ones,
    "all zero": torch.zeros,
    "sorted": lambda n: gaussian(n).sort().values,
    "sorted downwards": lambda n: gaussian(n).abs().sort(descending=True).values,
    "one outlier": lambda n: torch.where(torch.arange(n) == n // 3, 1e30, gaussian(n)),
    "denormal": lambda n: gaussian(n) * 1e-40,
    "zeros of both signs": lambda n: torch.where(gaussian(n) > 0, 0.0, -0.0),
    "infinities": lambda n: torch.where(gaussian(n) > 2, math.inf, gaussian(n)),
    "17 values": lambda n: (gaussian(n) * 4).round().clamp(-8, 8),
    "mostly zero": lambda n: torch.where(gaussian(n) > 1.5, gaussian(n), 0.0),
    "a plateau at the border": lambda n: gaussian(n).clamp(-2.5, 2.5),
    "periodic": lambda n: (torch.arange(n) % 256).float(),
}
