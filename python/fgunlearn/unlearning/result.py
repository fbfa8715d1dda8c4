"""What unlearning did: to which coordinates, in which time, with which losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from fgunlearn.distributed.layout import local_part
from fgunlearn.distributed.scoring import nonfinite_counts
from fgunlearn.selection.selection import Selection


class DivergedError(ValueError):
    """Training left the finite numbers; the model is as it was before."""


def check_finite(parameters: Mapping[str, Tensor], advice: str) -> None:
    """That training has left no parameter with a NaN or an infinite value.

    Raises:
        DivergedError: one has; the first is named.
    """
    counts = nonfinite_counts({name: local_part(p) for name, p in parameters.items()}, parameters)
    for name, count in zip(parameters, counts, strict=True):
        if count:
            raise DivergedError(f"it diverged: {name!r} has {count} NaN or infinite values; {advice}")


@dataclass
class Record:
    """What the steps did.

    ``history`` has one dict per epoch: epoch, retain_loss and forget_loss (means over its steps of what was minimised
    on D_r and on D_u, without weights and penalties; minus the loss where a method climbs it; None without such a
    term), learning_rate (of its last step). ``forget_steps`` counts the steps with a forget term, ``samples`` what went
    forward and backward, as far as batches tell (:func:`fgunlearn.batches.known_size`).
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    forget_steps: int = 0
    samples: int = 0
    stopped_forgetting: bool = False


@dataclass
class Progress:
    """How far a repair has come: its record, and of the steps of this epoch the sums of losses and the forget steps."""

    record: Record = field(default_factory=Record)
    retain_loss: float = 0.0
    forget_loss: float = 0.0
    forgetting: int = 0


@dataclass
class Result:
    """What :func:`fgunlearn.unlearn` or a method of :mod:`fgunlearn.methods` did.

    Attributes:
        model: the model, changed in place.
        selection: the coordinates that were allowed to change; None for a method that may change all.
        seconds: wall-clock time per phase, each up to the end of its work on the device. Those of ``unlearn``:
            "select" (scoring included), "perturb", "forget setup" and "repair"; and "recipe" where topk or its kin
            chose one.
        record: history, step counts and samples.
        changed: per parameter the number of coordinates whose value differs from before; of ``unlearn`` a subset of
            the selection unless the repair updated all.
        buffers: names of the buffers that changed (batch-norm statistics).
    """

    model: nn.Module
    selection: Selection | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    record: Record = field(default_factory=Record)
    changed: dict[str, int] = field(default_factory=dict)
    buffers: list[str] = field(default_factory=list)

    @property
    def total_seconds(self) -> float:
        """The sum of all phases."""
        return sum(self.seconds.values())
