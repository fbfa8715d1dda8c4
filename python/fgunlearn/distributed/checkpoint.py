"""The state of a SparseOptimizer through ``torch.distributed.checkpoint``, onto any number of processes.

The k selected coordinates of a parameter are one vector, in the order of their global indices, however the parameter is
sharded; that vector is what a checkpoint holds, and each process reads and writes its pieces of it::

    import torch.distributed.checkpoint as dcp
    from fgunlearn.distributed.checkpoint import OptimizerState

    selection.save("selection.safetensors")
    dcp.save({"optimizer": OptimizerState(optimizer), "model": model.state_dict()}, checkpoint_id=folder)

    # later, on other processes: a new optimizer with the same selection, which has taken no step
    selection = fg.Selection.load("selection.safetensors")
    optimizer = fg.SparseOptimizer(torch.optim.AdamW(model.parameters()), selection, model=model)
    dcp.load({"optimizer": OptimizerState(optimizer)}, checkpoint_id=folder)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

from fgunlearn.distributed.identity import identity
from fgunlearn.distributed.layout import Layout
from fgunlearn.distributed.processes import Processes, processes_of
from fgunlearn.optim import SparseOptimizer
from fgunlearn.optim.matching import Slot
from fgunlearn.optim.states import check_saved_groups, step_device, update_groups

_ABOUT = ("start", "held", "first", "one run")  # of a part, in what processes tell each other


class SelectedValues(torch.Tensor):
    """A vector of which this process holds pieces; ``torch.distributed.checkpoint`` knows how to save and load it.

    Args:
        length: of the vector.
        values: this process's pieces, one after another.
        positions: int64, ascending: where each value belongs in the vector.
    """

    selected: Tensor
    _pieces: list[tuple[int, int, int]]

    @staticmethod
    def __new__(cls, length: int, values: Tensor, positions: Tensor) -> SelectedValues:
        """See the class."""
        made: SelectedValues = torch.Tensor._make_wrapper_subclass(
            cls, (length,), dtype=values.dtype, device=values.device
        )
        made.selected = values
        made._pieces = _pieces(positions)
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"SelectedValues({len(self.selected)} of {len(self)}, in {len(self._pieces)} pieces)"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise NotImplementedError(f"SelectedValues is for torch.distributed.checkpoint, which has no use for {func}")

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [
            ChunkStorageMetadata(offsets=torch.Size([position]), sizes=torch.Size([length]))
            for _, position, length in self._pieces
        ]

    def __create_write_items__(self, fqn: str, object: Any) -> list[WriteItem]:
        properties = TensorProperties.create_from_tensor(self.selected)
        return [
            WriteItem(
                index=MetadataIndex(fqn, chunk.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk=chunk, properties=properties, size=self.size()),
            )
            for chunk in self.__create_chunk_list__()
        ]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        assert index.offset is not None
        for begin, position, length in self._pieces:
            if index.offset[0] == position:
                return self.selected[begin : begin + length]
        raise ValueError(f"{index.fqn} has no piece at {index.offset[0]} here")


def _pieces(positions: Tensor) -> list[tuple[int, int, int]]:
    """Runs of neighbouring positions: where each begins among the values and in the vector, and its length."""
    if len(positions) == 0:
        return []
    steps = torch.diff(positions, prepend=positions[:1] - 2)
    begins = (steps != 1).nonzero().reshape(-1).cpu()
    lengths = torch.diff(begins, append=torch.tensor([len(positions)]))
    return list(zip(begins.tolist(), positions.cpu()[begins].tolist(), lengths.tolist(), strict=True))


class OptimizerState:
    """A :class:`fgunlearn.SparseOptimizer` as ``torch.distributed.checkpoint`` takes it: ``Stateful``, see above.

    What is loaded replaces the optimizer's state and hyper-parameters. It fits any sharding, and none, of the same
    selection of the same parameters. Parameters are known by name if the optimizer knows their names (see
    :class:`fgunlearn.SparseOptimizer`), else by their position in the selection.

    Args:
        optimizer: all processes that hold its parameters have to save and load together.
    """

    def __init__(self, optimizer: SparseOptimizer) -> None:
        if not isinstance(optimizer, SparseOptimizer):
            raise TypeError(f"optimizer must be a SparseOptimizer, got {type(optimizer).__name__}")
        self._optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        """Copies of all states, zeros where there are none yet; called by all processes.

        Sends a few numbers per parameter, and 8 bytes for each selected coordinate of parameters that are not sharded
        along their first dimension.
        """
        entries = self._entries()
        processes = processes_of({slot.label: p for p, slot, _ in entries})
        identities, positions = _placed([slot for _, slot, _ in entries], processes)
        steps, present = self._steps(entries, processes)
        state: dict[str, Any] = {}
        for at, (p, slot, group) in enumerate(entries):
            held = self._optimizer.state.get(p, {})
            entry: dict[str, Any] = {"step": steps[at].clone(), "present": present[at].clone()}
            for key in self._keys(group):
                value = held.get(key)
                made = (
                    torch.zeros(slot.k, dtype=slot.state_dtype, device=slot.device)
                    if value is None
                    else value.detach().clone()
                )
                entry[key] = SelectedValues(slot.count, made, positions[at])
            state[_key(slot)] = entry
        groups = [
            {key: value for key, value in group.items() if key not in ("params", "param_names")}
            for group in self._optimizer.param_groups
        ]
        return {"selection": identities, "groups": groups, "state": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what ``torch.distributed.checkpoint.load`` has put into :meth:`state_dict`'s answer.

        Raises:
            ValueError: a state of another selection, optimizer or model; nothing is changed.
        """
        optimizer = self._optimizer
        rule = optimizer._rule
        entries = self._entries()
        processes = processes_of({slot.label: p for p, slot, _ in entries})
        identities, _ = _placed([slot for _, slot, _ in entries], processes)
        if state_dict["selection"] != identities:
            raise ValueError("the state was saved for another selection: its coordinates are not this optimizer's")
        saved = state_dict["groups"]
        if len(saved) != len(optimizer.param_groups):
            raise ValueError(
                f"the state was saved for {len(saved)} param groups, and the optimizer has "
                f"{len(optimizer.param_groups)}"
            )
        check_saved_groups(saved, rule)
        merged = [{**group, **other} for group, other in zip(optimizer.param_groups, saved, strict=True)]
        rule.checked(merged)
        loaded: dict[Tensor, dict[str, Any]] = {}
        for p, slot, group in entries:
            entry = state_dict["state"][_key(slot)]
            present = dict(zip(("step", *rule.states), entry["present"].tolist(), strict=True))
            held: dict[str, Any] = {key: entry[key].selected.clone() for key in self._keys(group) if present[key]}
            if present["step"]:
                held["step"] = entry["step"].to(step_device(group, p), copy=True)
            if held and slot.k > 0:
                loaded[p] = held
        update_groups(optimizer.param_groups, saved, rule)
        optimizer.state.clear()
        optimizer.state.update(loaded)

    def _entries(self) -> list[tuple[Tensor, Slot, dict[str, Any]]]:
        """Parameters with selected coordinates, here or elsewhere, in an order that all processes share."""
        found = []
        for group in self._optimizer.param_groups:
            for p in group["params"]:
                slot = self._optimizer._slots.get(p)
                if slot is not None and slot.count > 0:
                    slot.check(p)
                    found.append((p, slot, group))
        return sorted(found, key=lambda entry: entry[1].offset)

    def _keys(self, group: dict[str, Any]) -> list[str]:
        """The states that the group's options ask for."""
        unused = {"momentum_buffer": not group.get("momentum"), "max_exp_avg_sq": not group.get("amsgrad")}
        return [key for key in self._optimizer._rule.states if not unused.get(key, False)]

    def _steps(
        self, entries: Sequence[tuple[Tensor, Slot, dict[str, Any]]], processes: Processes | None
    ) -> tuple[Tensor, Tensor]:
        """Per parameter the step count, and which states it has; a process without a coordinate of it has none."""
        keys = ("step", *self._optimizer._rule.states)
        told = torch.zeros(len(entries), 1 + len(keys), dtype=torch.float64)
        for at, (p, _, _) in enumerate(entries):
            held = self._optimizer.state.get(p, {})
            told[at, 0] = float(held["step"]) if held.get("step") is not None else 0.0
            told[at, 1:] = torch.tensor([held.get(key) is not None for key in keys])
        if processes is not None and len(entries):
            told = processes.gather(told).amax(0)
        return told[:, 0].float(), told[:, 1:].bool()


def _key(slot: Slot) -> str:
    return slot.label.strip("'\"")


def _placed(slots: Sequence[Slot], processes: Processes | None) -> tuple[str, list[Tensor]]:
    """A hash of the whole selection, and per slot where its coordinates are among all of their parameter's."""
    layouts = [_layout(slot) for slot in slots]
    indices = [layout.to_global(slot.index) for layout, slot in zip(layouts, slots, strict=True)]
    counted = [
        (slot.offset, index) for slot, layout, index in zip(slots, layouts, indices, strict=True) if layout.first
    ]
    total = identity(counted)
    if processes is None:
        return total.numpy().tobytes().hex(), [torch.arange(slot.k, device=slot.device) for slot in slots]
    total = processes.sum(total)
    about = torch.tensor(
        [
            [-1 if layout.offset is None else layout.offset, slot.k, layout.first, layout.offset is not None]
            for layout, slot in zip(layouts, slots, strict=True)
        ],
        dtype=torch.int64,
    ).reshape(len(slots), len(_ABOUT))
    everyones = processes.gather(about)  # (ranks, slots, 4)
    positions = []
    for at, (layout, slot, index) in enumerate(zip(layouts, slots, indices, strict=True)):
        start, held, first, one_run = everyones[:, at].unbind(1)
        if bool(one_run.all()):
            before = int(held[(first == 1) & (start < int(start[processes.rank]))].sum())
            positions.append(torch.arange(slot.k, device=slot.device) + before)
        else:
            mine = index if layout.first else index[:0]
            whole = torch.cat(processes.gather_ragged(mine)).sort().values
            positions.append(torch.searchsorted(whole, index))
    return total.numpy().tobytes().hex(), positions


def _layout(slot: Slot) -> Layout:
    if slot.layout is not None:
        return slot.layout
    return Layout(slot.shape, tuple((range(size),) if size else () for size in slot.shape))
