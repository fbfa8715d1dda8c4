"""A plan: each way to select and to train, with its memory and its time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fgunlearn.planning import memory, time
from fgunlearn.planning.memory import Memory
from fgunlearn.planning.model import ModelSize
from fgunlearn.planning.rates import Rates
from fgunlearn.planning.setting import Setting
from fgunlearn.planning.time import Work

WHOLE_PASSES = "FSDP2 takes a backward pass whole: each group of parameters costs full passes over the data"


@dataclass(frozen=True)
class Way:
    """One way to do one thing.

    Attributes:
        name: what is done.
        key: its name in JSON.
        memory: on one device.
        work: on one device; of the repair and of training, one step.
        seconds: at the least; None where a rate is unknown.
        fits: whether ``memory`` is at most the device's; None where that is unknown.
        note: what is to be said of it.
    """

    name: str
    key: str
    memory: Memory
    work: Work
    seconds: float | None
    fits: bool | None
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """All ways for one model and setting; ``capacity`` in bytes on one device, None if unknown."""

    model: ModelSize
    setting: Setting
    rates: Rates
    capacity: int | None
    ways: tuple[Way, ...]

    def way(self, key: str) -> Way:
        """The way of that key."""
        return next(way for way in self.ways if way.key == key)

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON; bytes and seconds."""
        return {
            "kind": "arithmetic, not measured",
            "model": asdict(self.model),
            "setting": asdict(self.setting),
            "activations_estimated": self.setting.activations is None,
            "rates": asdict(self.rates),
            "capacity": self.capacity,
            "ways": [{**asdict(way), "memory": {**asdict(way.memory), "total": way.memory.total}} for way in self.ways],
        }


def made(model: ModelSize, setting: Setting, rates: Rates | None = None, capacity: int | None = None) -> Plan:
    """The plan.

    Args:
        model: its sizes.
        setting: what is to be done.
        rates: of one device, if times are wanted.
        capacity: bytes that one device has.

    Raises:
        ValueError: more selected coordinates than the model has parameters.
    """
    if setting.k > model.parameters:
        raise ValueError(f"k must be at most the number of parameters, {model.parameters}, got {setting.k}")
    rates = Rates() if rates is None else rates
    sharded = setting.devices > 1
    sparse = f"repair, SparseOptimizer of {setting.optimizer}"
    planned = (
        ("select, dense", "select_dense", memory.select_dense, time.select_dense, ""),
        (
            "select, streaming",
            "select_streaming",
            memory.select_streaming,
            time.select_streaming,
            WHOLE_PASSES if sharded and not setting.one_batch else "",
        ),
        (sparse, "repair", lambda m, s: memory.repair(m, s, free_grads=False), time.repair, ""),
        (f"{sparse}, free_grads", "repair_freed", lambda m, s: memory.repair(m, s, free_grads=True), time.repair, ""),
        (f"dense AdamW, {model.dtype} states", "adamw", memory.adamw, time.adamw, ""),
        ("dense AdamW, mixed precision", "adamw_mixed", memory.adamw_mixed, time.adamw_mixed, ""),
    )
    ways = []
    for name, key, held, done, note in planned:
        need, work = held(model, setting), done(model, setting)
        fits = None if capacity is None else need.total <= capacity
        ways.append(Way(name, key, need, work, work.seconds(rates), fits, note))
    return Plan(model, setting, rates, capacity, tuple(ways))
