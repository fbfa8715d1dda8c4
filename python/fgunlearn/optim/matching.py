"""Which coordinates of an optimizer's parameters a selection means."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fgunlearn.parameters import check_tensors, first_difference, trainable
from fgunlearn.selection.selection import Selection


@dataclass
class Slot:
    """One parameter's selected coordinates, and what the parameter was like when they were chosen."""

    label: str
    index: Tensor
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    _coordinates: Tensor | None = field(default=None, repr=False)

    @property
    def k(self) -> int:
        """The number of selected coordinates."""
        return self.index.numel()

    @property
    def state_dtype(self) -> torch.dtype:
        """In which a coordinate is updated and its state is held."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def coordinates(self) -> Tensor:
        """The selected coordinates as a sparse COO tensor holds them: int64 of shape (dimensions, k), made once."""
        if self._coordinates is None:
            self._coordinates = torch.stack(torch.unravel_index(self.index.long(), self.shape))
        return self._coordinates

    def check(self, p: Tensor) -> None:
        """Refuses a parameter that is no longer what it was.

        Raises:
            ValueError: its shape, dtype or device changed, or it is expanded.
        """
        if tuple(p.shape) == self.shape and p.dtype == self.dtype and p.device == self.device:
            _check_memory(p, self.label)
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
    for name, shape, index in zip(selection.names, selection.shapes, selection.indices, strict=True):
        p = given.pop(name, None)
        if p is not None:
            if tuple(p.shape) != shape:
                raise ValueError(
                    f"parameter {name!r} of the optimizer has shape {tuple(p.shape)}, and {shape} in the selection"
                )
            slots[p] = _slot(repr(name), p, index, offset)
        offset += _numel(shape)
    if given:
        raise ValueError(f"the optimizer's parameter {next(iter(given))!r} is not in the selection")
    return slots


def _filled(labelled: Iterable[tuple[str, Tensor]], selection: Selection) -> dict[Tensor, Slot]:
    offsets = itertools.accumulate(map(_numel, selection.shapes), initial=0)
    return {
        p: _slot(label, p, index, offset)
        for (label, p), index, offset in zip(labelled, selection.indices, offsets, strict=False)
    }


def _slot(label: str, p: Tensor, index: Tensor, offset: int) -> Slot:
    _check_memory(p, label)
    return Slot(label, index.to(p.device), offset, tuple(p.shape), p.dtype, p.device)


def _numel(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())


def fingerprint(slots: Iterable[Slot]) -> str:
    """SHA-256 of the tensors' shapes and selected indices, in hex: tells two selections of one size apart."""
    digest = hashlib.sha256()
    for slot in slots:
        digest.update(repr((slot.shape, slot.k)).encode())
        digest.update(slot.index.cpu().numpy().tobytes())
    return digest.hexdigest()
