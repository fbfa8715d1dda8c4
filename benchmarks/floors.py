"""The bytes that each operation has to move at the least: every input read once, every output written once.

At the bandwidth of a copy this is the time that no implementation gets under, for data that are not in a cache.
"""

from __future__ import annotations

SECTOR = 32
"""Bytes that a GPU's memory moves at the least: one coordinate read alone costs this much."""

INDEX = 4
"""Bytes of an index into a tensor of fewer than 2**31 elements; 8 for others."""


def index_size(n: int) -> int:
    """Bytes of one selected index of a tensor of n elements."""
    return INDEX if n < 2**31 else 2 * INDEX


def sectors(n: int, k: int, itemsize: int = 4) -> float:
    """Bytes of the sectors in which k of n coordinates lie, spread evenly: for small k/n, k sectors of 32."""
    per_sector = SECTOR // itemsize
    return n * itemsize * (1.0 - (1.0 - k / n) ** per_sector)


def top_k(n: int, k: int, itemsize: int = 4) -> float:
    """Keys read, indices written."""
    return float(n * itemsize + k * index_size(n))


def random_k(n: int, k: int) -> float:
    """Indices written; nothing is read."""
    return float(k * index_size(n))


def accumulate(n: int, gradient: int = 4) -> float:
    """Gradient and float32 score read, score written."""
    return float(n * (gradient + 4 + 4))


def accumulate_top_k(n: int, k: int, gradient: int = 4) -> float:
    """As :func:`accumulate`, and the indices of the new scores' k largest written."""
    return accumulate(n, gradient) + k * index_size(n)


def gather(n: int, k: int, itemsize: int = 4) -> float:
    """Indices and coordinates read, values written. Scattering them is the same the other way."""
    return k * (index_size(n) + itemsize) + sectors(n, k, itemsize)


def perturb(n: int, k: int, itemsize: int = 4) -> float:
    """Indices read, coordinates read and written."""
    return k * index_size(n) + 2 * sectors(n, k, itemsize)


def overwrite(n: int, k: int, itemsize: int = 4) -> float:
    """Indices read, coordinates written: zeroing them."""
    return k * index_size(n) + sectors(n, k, itemsize)


def one_read(n: int, itemsize: int = 4) -> float:
    """Every element read, next to nothing written: a sum, an rms."""
    return float(n * itemsize)


def sparse_add(n: int, k: int, itemsize: int = 4) -> float:
    """Tensor, indices and deltas read, the new tensor written."""
    return 2.0 * n * itemsize + k * (index_size(n) + itemsize)


def sparse_step(n: int, k: int, *, states: int, itemsize: int = 4) -> float:
    """Indices and gradient coordinates read, parameters and k float32 of each of the optimizer's states updated."""
    return k * (index_size(n) + states * 2 * 4) + 3 * sectors(n, k, itemsize)


def shift(n: int, itemsize: int = 4) -> float:
    """x and g read, the shifted x written: spd_perturb."""
    return 3.0 * n * itemsize


def shift_backward(n: int, itemsize: int = 4) -> float:
    """Gradient, x and g read, g's gradient written."""
    return 4.0 * n * itemsize
