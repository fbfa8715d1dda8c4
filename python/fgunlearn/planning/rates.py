"""How fast a device computes and moves bytes, at the most."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """Upper bounds, or what was measured.

    Attributes:
        flops: floating-point operations per second of matrix products; None if unknown.
        bandwidth: bytes per second of memory; None if unknown.
        link: bytes per second that a device sends or receives, for sharded models; None if unknown.
    """

    flops: float | None = None
    bandwidth: float | None = None
    link: float | None = None

    def __post_init__(self) -> None:
        for argument in ("flops", "bandwidth", "link"):
            value = getattr(self, argument)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{argument} must be positive and finite, got {value}")

    @property
    def known(self) -> bool:
        """Whether times can be given."""
        return self.flops is not None and self.bandwidth is not None


@dataclass(frozen=True)
class Device:
    """A kind of device by its datasheet: memory in bytes, and rates in 16-bit precision without sparsity."""

    memory: int | None
    rates: Rates


DEVICES = {
    "cpu": Device(None, Rates()),
    "a100": Device(80 * 10**9, Rates(312e12, 2.039e12)),
    "h100": Device(80 * 10**9, Rates(989e12, 3.35e12)),
    "h200": Device(141 * 10**9, Rates(989e12, 4.8e12)),
}
"""Datasheets of NVIDIA's SXM modules; of a CPU nothing can be said in general."""
