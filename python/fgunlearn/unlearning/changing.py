"""Changing a model so that an error or Ctrl-C in between gives it back as it was."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fgunlearn import ops
from fgunlearn.batches import wait_for
from fgunlearn.distributed.layout import layout_of, local_part, reshard
from fgunlearn.distributed.processes import processes_of
from fgunlearn.distributed.sharded import placed_as
from fgunlearn.parameters import buffers_of, trainable
from fgunlearn.selection.selection import Selection
from fgunlearn.unlearning.result import Result


@contextlib.contextmanager
def changing(model: nn.Module, selection: Selection | None = None, *, everything: bool = False) -> Iterator[Result]:
    """The model may be changed inside; the result that it yields then says what has changed.

    Afterwards every module is in the mode it had, and no trainable parameter has a gradient; after an error, Ctrl-C
    included, parameters and buffers are bit for bit what they were as well.

    Args:
        model: the model.
        selection: the only coordinates that change; None for all of the trainable parameters.
        everything: all of them change although there is a selection.
    """
    before = Snapshot(model, None if everything else selection)
    modes = {module: module.training for module in model.modules()}
    result = Result(model, selection)
    try:
        with before.restored_on_error():
            yield result
            before.clear_gradients()
            result.changed = before.changed_counts()
            result.buffers = before.changed_buffers()
    finally:
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def timed(seconds: dict[str, float], phase: str, device: torch.device) -> Iterator[None]:
    """Writes the time of what runs inside to ``seconds[phase]``, up to the end of its work on the device."""
    wait_for(device)
    start = time.perf_counter()
    try:
        yield
        wait_for(device)
    finally:
        seconds[phase] = time.perf_counter() - start


class Snapshot:
    """What may change, as it was: the selected coordinates (or without a selection all), and the buffers."""

    def __init__(self, model: nn.Module, selection: Selection | None) -> None:
        self._model = model
        self._parameters = trainable(model)
        self._selection = selection
        if selection is not None:
            selection = placed_as(selection, self._parameters)
            self._selection = selection
        tensors = [local_part(p) for p in self._parameters.values()]
        if selection is None:
            self._was = [t.clone() for t in tensors]
        else:
            self._was = ops.sparse_gather(tensors, selection.indices)
        self._buffers = [
            _Buffer(name, module, key, buffer, None if buffer is None else buffer.detach().clone())
            for name, module, key, buffer in buffers_of(model)
        ]
        self._names = {each.name for each in self._buffers}

    @contextlib.contextmanager
    def restored_on_error(self) -> Iterator[None]:
        """After an error inside, everything is put back."""
        try:
            yield
        except BaseException:
            self._restore()
            raise

    @torch.no_grad()
    def _restore(self) -> None:
        reshard(self._model)  # or a forward pass would go on with what FSDP2 gathered before
        tensors = [local_part(p) for p in self._parameters.values()]
        if self._selection is None:
            for tensor, was in zip(tensors, self._was, strict=True):
                tensor.copy_(was)
        else:
            ops.sparse_scatter_(tensors, self._selection.indices, self._was)
        for name, module, key, _ in list(buffers_of(self._model)):
            if name not in self._names:
                delattr(module, key)  # a forward pass registered it
        for each in self._buffers:
            each.module._buffers[each.key] = each.tensor  # a forward pass may have put another one there
            if each.tensor is not None and each.was is not None:
                each.tensor.copy_(each.was)
        self.clear_gradients()

    def clear_gradients(self) -> None:
        """Frees the gradients of the parameters."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def changed_counts(self) -> dict[str, int]:
        """Per parameter the number of values that differ from before, of all processes if it is a DTensor."""
        now: list[Tensor] = [local_part(p) for p in self._parameters.values()]
        if self._selection is not None:
            now = ops.sparse_gather(now, self._selection.indices)
        counts = torch.tensor(
            [
                int((a != b).sum()) if layout_of(p).first else 0
                for p, a, b in zip(self._parameters.values(), now, self._was, strict=True)
            ]
        )
        processes = processes_of(self._parameters)
        return dict(
            zip(self._parameters, (counts if processes is None else processes.sum(counts)).tolist(), strict=True)
        )

    def changed_buffers(self) -> list[str]:
        """The buffers that differ from before, or were not there."""
        changed = [each.name for each in self._buffers if not _same(each.module._buffers.get(each.key), each.was)]
        return changed + [name for name, _, _, _ in buffers_of(self._model) if name not in self._names]


@dataclass(frozen=True)
class _Buffer:
    """Where a buffer is, the tensor that was there, and what it held."""

    name: str
    module: nn.Module
    key: str
    tensor: Tensor | None
    was: Tensor | None


def _same(now: Tensor | None, was: Tensor | None) -> bool:
    """Whether two buffers hold the same; NaN is NaN."""
    if now is None or was is None:
        return now is was
    if now.shape != was.shape:
        return False
    return bool(((now == was) | ((now != now) & (was != was))).all())
