"""Where two tensors of one dtype differ, by their bytes in safetensors files. Needs no torch."""

from __future__ import annotations

from typing import Any

import numpy as np

_LARGEST = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("<u1", 0x7C),
    "F8_E4M3": ("<u1", 0x7E),
}
"""Floats as integers of their width: larger ones, the sign bit aside, are NaN."""

_WIDTHS = {"I64": "<u8", "I32": "<u4", "I16": "<u2", "I8": "<u1", "U8": "<u1", "BOOL": "<u1"}

DTYPES = (*_LARGEST, *_WIDTHS)
"""The dtypes, as safetensors names them, that :func:`differences` takes."""


def differences(before: Any, after: Any, dtype: str) -> tuple[Any, Any]:
    """Which elements differ in value, and which in a bit. The former takes 0 for -0 and NaN for NaN.

    Args:
        before: NumPy array uint8, 1-D: the bytes of a tensor.
        after: those of another, as many.
        dtype: of both, one of ``DTYPES``.

    Returns:
        Two NumPy arrays bool, 1-D, an element of each element.
    """
    if dtype in _WIDTHS:
        bits = before.view(_WIDTHS[dtype]) != after.view(_WIDTHS[dtype])
        return bits, bits
    width, largest = _LARGEST[dtype]
    was, now = before.view(width), after.view(width)
    bits = was != now
    sign = np.array(1 << (8 * was.itemsize - 1), dtype=width)
    was, now = was & ~sign, now & ~sign
    return bits & ~((was > largest) & (now > largest)) & ((was | now) != 0), bits
