"""On which device an op works, for the fakes, which have to say so without running a kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def device_of(tensors: Sequence[Tensor]) -> torch.device:
    """The device that an op on a list of tensors works on: theirs; the CPU for an empty list."""
    return tensors[0].device if tensors else torch.device("cpu")
