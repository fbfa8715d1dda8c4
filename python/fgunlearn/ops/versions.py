"""Version counters: how autograd knows that a tensor it saved has been written to since."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def mark_written(*written: Iterable[Tensor]) -> None:
    """Counts a write to each tensor, as torch's own in-place operations do.

    A kernel that writes through a pointer is not seen by autograd: a backward pass through the old values would give
    wrong gradients without a word, where it has to raise. Under ``torch.compile`` the compiled graph counts the writes.
    """
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version([tensor for tensors in written for tensor in tensors])
