"""What is to be done with a model, and on how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from fgunlearn.arguments import check_choice, check_count
from fgunlearn.planning.model import NARROW_LIMIT, ModelSize
from fgunlearn.scoring import ScoreKind, default_budget

STATES = {"sgd": 0, "momentum": 1, "adamw": 2}
"""States of one value per coordinate that an optimizer keeps: none, momenta, two moments."""


@dataclass(frozen=True)
class Setting:
    """A selection and a repair.

    Attributes:
        k: selected coordinates.
        tokens: of one batch on one device.
        batches: of the data to forget, on each device.
        devices: how many share the model, as FSDP2 shards it.
        score: what the selection ranks by.
        optimizer: of the repair, a key of ``STATES``.
        activations: bytes that a forward pass keeps on a device, where known; else ``ModelSize.activations``.
        recompute: whether each block is computed again in the backward pass (activation checkpointing).
        memory_budget: that of ``fgunlearn.select``, bytes; None for its default.
    """

    k: int
    tokens: int
    batches: int = 1
    devices: int = 1
    score: ScoreKind = "grad"
    optimizer: str = "adamw"
    activations: int | None = None
    recompute: bool = False
    memory_budget: int | None = None

    def __post_init__(self) -> None:
        check_count(self.k, "k", 0)
        check_choice(self.score, get_args(ScoreKind), "score")
        check_choice(self.optimizer, list(STATES), "optimizer")
        for argument in ("tokens", "batches", "devices"):
            check_count(getattr(self, argument), argument)
        if self.memory_budget is not None:
            check_count(self.memory_budget, "memory_budget")
        if self.activations is not None:
            check_count(self.activations, "activations", 0)

    @property
    def sums_per_coordinate(self) -> int:
        """How many running sums the score needs: "fisher_ratio" is a quotient of two."""
        return 2 if self.score == "fisher_ratio" else 1

    def kept(self, model: ModelSize) -> int:
        """Bytes of activations on a device."""
        return model.activations(self.tokens, self.recompute) if self.activations is None else self.activations

    def budget(self, model: ModelSize) -> int:
        """``memory_budget`` in bytes, or the default: a share of the parameters that a device holds."""
        held = -(-model.parameters // self.devices) * model.itemsize
        return default_budget(held) if self.memory_budget is None else self.memory_budget

    @property
    def one_batch(self) -> bool:
        """Whether a score is complete when its gradient comes."""
        return self.batches == 1 and self.sums_per_coordinate == 1


def share_of(model: ModelSize, setting: Setting) -> tuple[int, int, int]:
    """Parameters and selected coordinates of one device, and bytes of an index: 4, or 8 for tensors of 2^31 elements.

    Where the largest tensor has wide indices, all are counted as wide.
    """
    devices = setting.devices
    part = -(-model.largest_tensor // devices)
    return -(-model.parameters // devices), -(-setting.k // devices), 4 if part < NARROW_LIMIT else 8


def scores() -> tuple[str, ...]:
    """The kinds of score there are."""
    return get_args(ScoreKind)
