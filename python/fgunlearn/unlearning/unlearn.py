"""Score, select, perturb, repair."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fgunlearn import ops
from fgunlearn.batches import Loader, LossFunction, wait_for
from fgunlearn.parameters import trainable
from fgunlearn.perturb import Ascent, Gaussian, Perturbation, Reset, Shrink, Zero, perturb_
from fgunlearn.selection import RandomK, RandomTopK, Selection, Strategy, TopK, select
from fgunlearn.selection.strategies import resolve_k
from fgunlearn.unlearning.loop import ForgetTerm, RepairRecord, count_batches, repair_
from fgunlearn.unlearning.repair import Repair


@dataclass
class Result:
    """What :func:`unlearn` did.

    Attributes:
        model: the model, changed in place.
        selection: the coordinates that were allowed to change.
        seconds: wall-clock time of "select" (scoring included), "perturb", "forget setup" and "repair", each up to the
            end of its work on the device.
        record: the repair's history, step counts and samples.
        changed: per parameter the number of coordinates whose value differs from before; a subset of the selection
            unless the repair updated all.
        buffers: names of the buffers that changed (batch-norm statistics).
    """

    model: nn.Module
    selection: Selection
    seconds: dict[str, float] = field(default_factory=dict)
    record: RepairRecord = field(default_factory=RepairRecord)
    changed: dict[str, int] = field(default_factory=dict)
    buffers: list[str] = field(default_factory=list)

    @property
    def total_seconds(self) -> float:
        """The sum of all phases."""
        return sum(self.seconds.values())


def unlearn(
    model: nn.Module,
    forget_loader: Loader,
    retain_loader: Loader,
    *,
    loss_fn: LossFunction | None = None,
    strategy: Strategy,
    perturb: Perturbation | None = None,
    repair: Repair | None = None,
    heldout_loader: Loader | None = None,
    progress: bool = False,
) -> Result:
    """Removes the influence of the forget data from the model, in place, approximately.

    Scores the coordinates on the forget data, selects by ``strategy``, perturbs the selected ones, and repairs them on
    the remaining data. Off the selection no parameter changes by a bit (unless ``repair.update`` is "all"). After an
    error or Ctrl-C the model is back as it was. How far the removal went is for :mod:`fgunlearn.metrics` to say: this
    is evidence, not proof.

    Args:
        model: parameters that require grad take part.
        forget_loader: the data to forget, an iterable of batches that can be read more than once; held in memory while
            a forget term runs.
        retain_loader: the remaining data, likewise. The score ``fisher_ratio`` reads its first batches, as many as
            ``forget_loader`` has, so let it shuffle.
        loss_fn: ``loss_fn(model, batch) -> scalar``, the mean over the batch; cross entropy on ``(x, y)`` by default.
        strategy: TopK, RandomK or RandomTopK.
        perturb: Gaussian, Reset, Shrink, Zero or Ascent; None for no perturbation.
        repair: see :class:`Repair`; its defaults when None.
        heldout_loader: labelled data never trained on, for the rule that stops forgetting.
        progress: show progress bars on a terminal.

    Raises:
        TypeError, ValueError: what is wrong with which argument; an empty loader; a repair that diverged.
    """
    repair = Repair() if repair is None else repair
    _check(strategy, perturb, repair)
    parameters = trainable(model)
    resolve_k(sum(p.numel() for p in parameters.values()), strategy.k, strategy.ratio)
    count_batches(retain_loader)
    forget_batches = list(forget_loader)
    if not forget_batches:
        raise ValueError("forget_loader is empty: there is nothing to forget")
    device = next(iter(parameters.values())).device
    modes = {module: module.training for module in model.modules()}
    seconds: dict[str, float] = {}
    try:
        with _timed(seconds, "select", device):
            sample = None
            if strategy.score_kind is not None:
                sample = list(itertools.islice(retain_loader, len(forget_batches)))
            selection = select(model, forget_batches, loss_fn, strategy, retain_loader=sample, progress=progress)
        del sample
        before = _Snapshot(model, selection, everything=repair.update == "all")
        with before.restored_on_error():
            forget = None
            if repair.forget != "none" and repair.epochs > 0:
                with _timed(seconds, "forget setup", device):
                    forget = ForgetTerm(model, forget_batches, retain_loader, heldout_loader, loss_fn, repair)
            if perturb is not None:
                with _timed(seconds, "perturb", device):
                    perturb_(model, selection, perturb, loader=forget_batches, loss_fn=loss_fn)
            with _timed(seconds, "repair", device):
                record = repair_(model, selection, forget, retain_loader, loss_fn, repair, progress)
            for parameter in parameters.values():
                parameter.grad = None
    finally:
        for module, training in modes.items():
            module.training = training
    return Result(model, selection, seconds, record, before.changed_counts(), before.changed_buffers())


def _check(strategy: object, perturb: object, repair: object) -> None:
    if not isinstance(strategy, (TopK, RandomK, RandomTopK)):
        raise TypeError(f"strategy must be a TopK, RandomK or RandomTopK, got {strategy!r}")
    if perturb is not None and not isinstance(perturb, (Gaussian, Reset, Shrink, Zero, Ascent)):
        raise TypeError(f"perturb must be a Gaussian, Reset, Shrink, Zero, Ascent or None, got {perturb!r}")
    if not isinstance(repair, Repair):
        raise TypeError(f"repair must be a Repair, got {repair!r}")


@contextlib.contextmanager
def _timed(seconds: dict[str, float], phase: str, device: torch.device) -> Iterator[None]:
    wait_for(device)
    start = time.perf_counter()
    try:
        yield
        wait_for(device)
    finally:
        seconds[phase] = time.perf_counter() - start


class _Snapshot:
    """What unlearning may change, as it was: the selected coordinates (or everything), and the buffers."""

    def __init__(self, model: nn.Module, selection: Selection, everything: bool) -> None:
        self._parameters = trainable(model)
        self._selection = selection
        tensors = [p.detach() for p in self._parameters.values()]
        self._all = [t.clone() for t in tensors] if everything else None
        self._selected = [] if everything else ops.sparse_gather(tensors, selection.indices)
        self._buffers = {name: (buffer, buffer.detach().clone()) for name, buffer in model.named_buffers()}

    @contextlib.contextmanager
    def restored_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._restore()
            raise

    @torch.no_grad()
    def _restore(self) -> None:
        tensors = [p.detach() for p in self._parameters.values()]
        if self._all is not None:
            for tensor, was in zip(tensors, self._all, strict=True):
                tensor.copy_(was)
        else:
            ops.sparse_scatter_(tensors, self._selection.indices, self._selected)
        for buffer, was in self._buffers.values():
            buffer.copy_(was)
        for parameter in self._parameters.values():
            parameter.grad = None

    def changed_counts(self) -> dict[str, int]:
        tensors = [p.detach() for p in self._parameters.values()]
        now: list[Tensor] = tensors
        was = self._all
        if was is None:
            now, was = ops.sparse_gather(tensors, self._selection.indices), self._selected
        return {name: int((a != b).sum()) for name, a, b in zip(self._parameters, now, was, strict=True)}

    def changed_buffers(self) -> list[str]:
        return [name for name, (buffer, was) in self._buffers.items() if not torch.equal(buffer, was)]
