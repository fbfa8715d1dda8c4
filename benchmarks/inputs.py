"""What the benchmarks work on: the same numbers whenever they run on one device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import fgunlearn as fg

# ResNet-18 for 32x32 pictures (3x3 stem, 10 classes): 62 parameters, 11,173,962 elements.
_STAGES = ((64, 64), (64, 128), (128, 256), (256, 512))


def generator(device: str, seed: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def normal(n: int | tuple[int, ...], device: str, *, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers."""
    size = (n,) if isinstance(n, int) else n
    return torch.randn(size, generator=generator(device, seed), device=device, dtype=dtype)


def random_indices(n: int, k: int, device: str) -> Tensor:
    """k of n coordinates, ascending, as Random-k draws them: int32 where n < 2**31."""
    return fg.ops.randomk_select([n], k, 0, device=device)[0]


def resnet18_shapes() -> list[tuple[int, ...]]:
    """The shapes of ResNet-18's parameters, in order."""
    shapes: list[tuple[int, ...]] = [(64, 3, 3, 3), (64,), (64,)]
    for before, width in _STAGES:
        for block in range(2):
            channels_in = before if block == 0 else width
            shapes += [(width, channels_in, 3, 3), (width,), (width,), (width, width, 3, 3), (width,), (width,)]
            if block == 0 and before != width:
                shapes += [(width, channels_in, 1, 1), (width,), (width,)]
    return [*shapes, (10, 512), (10,)]


def resnet18(device: str) -> list[Tensor]:
    """Normal keys in ResNet-18's shapes."""
    return [normal(shape, device, seed=t) for t, shape in enumerate(resnet18_shapes())]


def distributions(n: int, device: str) -> dict[str, Tensor]:
    """Keys as scores may be: all alike but for a few, or all alike, or of few values."""
    return {
        "heavy-tailed": normal(n, device, seed=0).mul_(4.0).exp_(),  # log-normal: 20 decades
        "all equal": torch.ones(n, device=device),
        "17 distinct values": torch.randint(
            0, 17, (n,), generator=generator(device, 1), device=device, dtype=torch.float32
        ),
    }


def adversarial(n: int, device: str) -> dict[str, Tensor]:
    """Keys that a sampling or radix selection could stumble over, beside :func:`distributions`."""
    base = normal(n, device, seed=0)
    outlier = base.clone()
    outlier[n // 2] = 1e30
    infinite = base.clone()
    infinite[:: max(1, n // 1000)] = math.inf
    signed = torch.where(base > 0, 0.0, -0.0)
    return {
        "all zero": torch.zeros(n, device=device),
        "sorted": base.sort().values,
        "one huge outlier": outlier,
        "denormals": base * 1e-40,
        "+-0 and a few": torch.where(base.abs() > 3.0, base, signed),
        "1000 infinities": infinite,
        "tied at the border": torch.where(base.abs() > 2.5, base, torch.full_like(base, 2.5)),
    }
