"""Leaving tensors without a selected coordinate out of the backward pass."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fgunlearn.optim.matching import Slot


@dataclass(frozen=True)
class BackwardSaving:
    """What freezing untouched tensors saved: medians, in seconds, of a forward and backward pass.

    Attributes:
        tensors: frozen ones.
        elements: their share of the elements of all tensors, 0 to 1.
        unfrozen: seconds with every tensor's gradient computed.
        frozen: seconds without those of the frozen ones.
    """

    tensors: int
    elements: float
    unfrozen: float
    frozen: float

    @property
    def share(self) -> float:
        """Of the time without freezing, what was saved."""
        return 1.0 - self.frozen / self.unfrozen


def freeze(slots: Mapping[Tensor, Slot]) -> list[Tensor]:
    """Switches requires_grad off where nothing is selected; the tensors it was on for."""
    untouched = [p for p, slot in slots.items() if slot.count == 0 and p.requires_grad]
    for p in untouched:
        p.requires_grad_(False)
        p.grad = None
    return untouched


def measure(
    loss_fn: Callable[[], Tensor], frozen: list[Tensor], slots: Mapping[Tensor, Slot], repeats: int
) -> BackwardSaving:
    """Times ``loss_fn().backward()`` with the tensors frozen and not, in turns; gradients of the slots' are as before.

    Raises:
        ValueError: no timed turn.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be >= 1, got {repeats}")
    grads = {p: p.grad for p in slots}
    for p in slots:
        p.grad = None  # the old one would be added to in place
    seconds: dict[bool, list[float]] = {True: [], False: []}
    try:
        for turn in range(repeats + 1):
            for on in (True, False):
                for p in frozen:
                    p.requires_grad_(not on)
                start = time.perf_counter()
                loss = loss_fn()
                loss.backward()
                if loss.is_cuda:
                    torch.cuda.synchronize(loss.device)
                if turn > 0:  # the first turn warms up
                    seconds[on].append(time.perf_counter() - start)
                for p in slots:
                    p.grad = None
    finally:
        for p in frozen:
            p.requires_grad_(False)
        for p, grad in grads.items():
            p.grad = grad
    elements = sum(p.numel() for p in frozen) / max(1, sum(p.numel() for p in slots))
    return BackwardSaving(len(frozen), elements, statistics.median(seconds[False]), statistics.median(seconds[True]))
