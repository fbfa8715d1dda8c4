"""Which coordinates of an optimizer's parameters a selection means."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fgunlearn.distributed.layout import Layout, is_dtensor, layout_of, local_part
from fgunlearn.distributed.sharded import part_of
from fgunlearn.parameters import check_tensors, first_difference, trainable
from fgunlearn.selection.selection import Selection


@dataclass
class Slot:
    """One parameter's selected coordinates, and what the parameter was like when they were chosen.

    Of a DTensor the slot is about this process's part of it.

    Attributes:
        label: the parameter's name in errors.
        index: flat indices into the part.
        offset: the global index of the whole parameter's first element.
        shape: of the whole parameter.
        dtype: the parameter's.
        device: the parameter's.
        layout: where the part lies, of a DTensor; None for another parameter.
        count: how many coordinates of the whole parameter are selected.
    """

    label: str
    index: Tensor
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    layout: Layout | None = None
    count: int = 0
    _coordinates: Tensor | None = field(default=None, repr=False)

    @property
    def k(self) -> int:
        """The number of selected coordinates."""
        return self.index.numel()

    @property
    def local_shape(self) -> tuple[int, ...]:
        """The shape of the part."""
        return self.shape if self.layout is None else self.layout.local_shape

    @property
    def first_index(self) -> int:
        """The global index of the part's first element; the others' follow, where the part is one run of the whole."""
        return self.offset + ((self.layout.offset or 0) if self.layout is not None else 0)

    @property
    def state_dtype(self) -> torch.dtype:
        """In which a coordinate is updated and its state is held."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def coordinates(self) -> Tensor:
        """The selected coordinates as a sparse COO tensor holds them: int64 of shape (dimensions, k), made once.

        Nothing smaller will do: torch takes no gradient of another shape than the parameter's, such as a flat one, and
        none in another sparse layout; and the indices of this one are int64.
        """
        if self._coordinates is None:
            self._coordinates = torch.stack(torch.unravel_index(self.index.long(), self.local_shape))
        return self._coordinates

    def check(self, p: Tensor) -> None:
        """Refuses a parameter that is no longer what it was.

        Raises:
            ValueError: its shape, dtype, device or sharding changed, or it is expanded.
        """
        if (self.layout is not None) != is_dtensor(p) or (self.layout is not None and layout_of(p) != self.layout):
            raise ValueError(
                f"parameter {self.label} is sharded in another way than when its optimizer was wrapped: wrap a new one"
            )
        if tuple(p.shape) == self.shape and p.dtype == self.dtype and p.device == self.device:
            _check_memory(local_part(p), self.label)
            return
        raise ValueError(
            f"parameter {self.label} was {_described(self.shape, self.dtype, self.device)} when its optimizer was "
            f"wrapped and is {_described(tuple(p.shape), p.dtype, p.device)} now: wrap a new optimizer after such a "
            "change (load_state_dict takes the state over)"
        )


def _check_memory(p: Tensor, label: str) -> None:
    if 0 in p.stride() and any(stride == 0 and size > 1 for stride, size in zip(p.stride(), p.shape, strict=True)):
        raise ValueError(
            f"parameter {label} is expanded: several of its elements are one place in memory; clone it before wrapping"
        )


def _described(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> str:
    return f"{str(dtype)[6:]} of shape {shape} on {device}"


def slots_of(
    groups: Sequence[Mapping[str, Any]], selection: Selection, model: nn.Module | None = None
) -> dict[Tensor, Slot]:
    """The slots of the parameters that the selection was made for.

    Given a model, or names in both the groups and the selection, parameters are matched by name, and the groups may
    hold them in any order and leave some out. Otherwise those that require grad are matched by position and shape.

    Raises:
        TypeError: not a selection, or a parameter that kernels can't take.
        ValueError: the selection was made for other parameters, or by position it can't be told for which ones; an
            expanded parameter.
    """
    if not isinstance(selection, Selection):
        raise TypeError(f"selection must be a Selection, got {type(selection).__name__}")
    params = [p for group in groups for p in group["params"] if p.requires_grad]
    check_tensors({str(t): p for t, p in enumerate(params)}, "parameter")
    if model is not None:
        known = trainable(model)
        difference = first_difference(selection.names, selection.shapes, known)
        if difference is not None:
            raise ValueError(f"the selection was made for another model: {difference}{_if_frozen(model.parameters())}")
        return _filled(zip((repr(name) for name in known), known.values(), strict=True), selection)
    if selection.names is not None and all(group.get("param_names") is not None for group in groups):
        named = (zip(group["param_names"], group["params"], strict=True) for group in groups)
        return _by_name(itertools.chain.from_iterable(named), selection)
    if len(params) != len(selection.shapes):
        raise ValueError(
            f"the selection was made for {len(selection.shapes)} tensors, the optimizer has {len(params)} parameters "
            "that require grad; pass model= to match them by name"
            + _if_frozen(p for group in groups for p in group["params"])
        )
    for position, (p, shape) in enumerate(zip(params, selection.shapes, strict=True)):
        if tuple(p.shape) != shape:
            raise ValueError(
                f"parameter {position} of the optimizer has shape {tuple(p.shape)}, and {shape} in the selection; if "
                "its groups hold the parameters in another order, pass model= to match them by name"
            )
    if selection.names is not None:
        _check_only_match(groups)
    return _filled(((str(t), p) for t, p in enumerate(params)), selection)


def _if_frozen(params: Iterable[Tensor]) -> str:
    frozen = sum(not p.requires_grad for p in params)
    if frozen == 0:
        return ""
    return (
        f". {frozen} of the parameters have requires_grad=False: if another SparseOptimizer with freeze_untouched=True "
        "froze them, close() it first"
    )


def _check_only_match(groups: Sequence[Mapping[str, Any]]) -> None:
    """By shapes alone, groups in another order than the model's could pass for the model's."""
    group_of: dict[tuple[int, ...], int] = {}
    for position, group in enumerate(groups):
        for shape in {tuple(p.shape) for p in group["params"] if p.requires_grad}:
            first = group_of.setdefault(shape, position)
            if first != position:
                raise ValueError(
                    f"param groups {first} and {position} both hold a parameter of shape {shape}, so that by position "
                    "and shape it can't be told which is which: pass model= to match them by name"
                )


def _by_name(named: Iterable[tuple[str, Tensor]], selection: Selection) -> dict[Tensor, Slot]:
    assert selection.names is not None
    given = {name: p for name, p in named if p.requires_grad}
    slots: dict[Tensor, Slot] = {}
    offset = 0
    for position, (name, shape) in enumerate(zip(selection.names, selection.shapes, strict=True)):
        p = given.pop(name, None)
        if p is not None:
            if tuple(p.shape) != shape:
                raise ValueError(
                    f"parameter {name!r} of the optimizer has shape {tuple(p.shape)}, and {shape} in the selection"
                )
            slots[p] = _slot(repr(name), p, selection, position, offset)
        offset += _numel(shape)
    if given:
        raise ValueError(f"the optimizer's parameter {next(iter(given))!r} is not in the selection")
    return slots


def _filled(labelled: Iterable[tuple[str, Tensor]], selection: Selection) -> dict[Tensor, Slot]:
    offsets = itertools.accumulate(map(_numel, selection.shapes), initial=0)
    return {
        p: _slot(label, p, selection, position, offset)
        for position, ((label, p), offset) in enumerate(zip(labelled, offsets, strict=False))
    }


def _slot(label: str, p: Tensor, selection: Selection, position: int, offset: int) -> Slot:
    index = part_of(selection, position, p, f"parameter {label}").to(p.device)
    _check_memory(local_part(p), label)
    layout = layout_of(p) if is_dtensor(p) else None
    return Slot(label, index, offset, tuple(p.shape), p.dtype, p.device, layout, selection.counts[position])


def _numel(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())


def fingerprint(slots: Iterable[Slot]) -> str:
    """SHA-256 of the tensors' shapes and selected indices, in hex: tells two selections of one size apart.

    Of sharded parameters also where the parts lie, so that no rank takes another's state for its own.
    """
    digest = hashlib.sha256()
    for slot in slots:
        spans = () if slot.layout is None else slot.layout.spans
        digest.update(repr((slot.shape, slot.k, *spans)).encode())
        digest.update(slot.index.cpu().numpy().tobytes())
    return digest.hexdigest()


def refuse_for_shards(slots: Iterable[Slot], freeze_untouched: bool, stochastic_rounding: bool) -> None:
    """Refuses what can't be done with sharded parameters.

    Raises:
        ValueError: the option and the parameter are named.
    """
    for slot in slots:
        if slot.layout is None:
            continue
        if freeze_untouched:
            raise ValueError(
                f"freeze_untouched=True needs whole parameters, and {slot.label} is a DTensor: FSDP2 doesn't notice "
                "that a parameter is frozen after fully_shard()"
            )
        if stochastic_rounding and slot.layout.offset is None:
            raise ValueError(
                f"stochastic_rounding=True draws by global index, and of parameter {slot.label}, placed "
                f"{slot.layout.placements}, this process holds several runs: shard it along its first dimension"
            )
