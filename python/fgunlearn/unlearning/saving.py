"""The checkpoints of :func:`fgunlearn.unlearn`: what its repair has changed so far, and everything it goes on with."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fgunlearn import ops
from fgunlearn.batches import Loader, LossFunction
from fgunlearn.parameters import buffers_of, trainable
from fgunlearn.resuming.call import Call
from fgunlearn.resuming.checkpoint import Checkpoint
from fgunlearn.resuming.file import Contents, check_storable
from fgunlearn.resuming.identity import digest, digest_of_batches, digest_of_model, fields_of, name_of
from fgunlearn.resuming.optimizers import load_optimizer, of_optimizer
from fgunlearn.resuming.position import Position
from fgunlearn.selection.selection import Selection
from fgunlearn.unlearning.forget_term import ForgetTerm
from fgunlearn.unlearning.repair import Repair
from fgunlearn.unlearning.result import DivergedError, Progress, Record


@dataclass(frozen=True)
class Saved:
    """What an earlier call left to go on from."""

    contents: Contents

    def selection(self, device: torch.device) -> Selection:
        """The coordinates that were selected."""
        part = self.contents.part("selection")
        with part.well_formed():
            indices = [part.tensors[f"indices/{t}"] for t in range(len(part.facts["shapes"]))]
            about = {name: part.facts[name] for name in ("names", "threshold", "seed")}
            found = Selection(part.facts["shapes"], indices, **about)
        return found.to(device)

    @property
    def seconds(self) -> dict[str, float]:
        """What the phases took until then."""
        with self.contents.well_formed():
            return {str(phase): float(taken) for phase, taken in self.contents.facts["seconds"].items()}

    @property
    def forget(self) -> Contents:
        """The state of the forget term."""
        return self.contents.part("forget")


class Saving:
    """The checkpoints of one call; see :class:`fgunlearn.Checkpoint`.

    Attributes:
        found: what to go on from; None to begin.
        seconds: what the phases took before the repair, and the repair in earlier calls.

    Args:
        checkpoint: of the user's.
        model: as it is before the call.
        forget_loader: see :func:`fgunlearn.unlearn`, as for the following two.
        retain_loader: see forget_loader.
        heldout_loader: see forget_loader.

    Raises:
        TypeError, ValueError, OSError: as :class:`fgunlearn.resuming.call.Call`; a buffer that no file can hold.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: nn.Module,
        forget_loader: Loader,
        retain_loader: Loader,
        heldout_loader: Loader | None,
    ) -> None:
        for name, _, _, buffer in buffers_of(model):
            if buffer is not None:
                check_storable(buffer, f"buffer {name!r}")
        self._call = Call(checkpoint, "unlearn", [forget_loader, retain_loader, heldout_loader])
        self._model, self._heldout_loader = model, heldout_loader
        self._position = Position(retain_loader, "retain_loader", self._call.every, [forget_loader, heldout_loader])
        found = self._call.found
        self.found = None if found is None else Saved(found)
        self.seconds: dict[str, float] = {}
        self._everything = False

    def checking(self) -> contextlib.AbstractContextManager[None]:
        """See :meth:`Call.checking`."""
        return self._call.checking()

    def agree(
        self,
        strategy: object,
        perturb: object,
        repair: Repair,
        loss_fn: LossFunction | None,
        memory: tuple[object, ...],
        forget_batches: Sequence[Any],
        retain_batches: int,
    ) -> None:
        """Compares the call with the one that wrote the file, if there is one.

        Raises:
            ValueError: what differs.
        """
        self._everything = repair.update == "all"
        parameter = next(iter(trainable(self._model).values()))
        identity = {
            "the model": digest_of_model(self._model),
            "the model's device": str(parameter.device),
            **fields_of("strategy", strategy),
            **fields_of("perturb", perturb),
            **fields_of("repair", repair),
            "loss_fn": name_of(loss_fn),
            "memory": repr(memory[0]),
            "memory_budget": repr(memory[1]),
            "the data of forget_loader": digest(forget_batches, "forget_loader"),
            "the number of batches of retain_loader": str(retain_batches),
            "the data of heldout_loader": "None",
        }
        asked = repair.forget != "none" and repair.epochs > 0 and (repair.stop or repair.forget == "heldout")
        if asked and self._heldout_loader is not None:
            with self._call.aside():
                identity["the data of heldout_loader"] = digest_of_batches(self._heldout_loader, "heldout_loader")
        self._call.agree(identity)

    def begin(self, selection: Selection, optimizer: torch.optim.Optimizer, total: int) -> Progress:
        """The repair begins, or goes on: the model, the optimizer and how far it came are then as they were.

        Args:
            selection: the selected coordinates.
            optimizer: of the repair, new.
            total: the number of steps that the repair takes.

        Raises:
            ValueError: the file is damaged.
        """
        self._began = time.perf_counter()
        self._selection, self._optimizer = selection, optimizer
        if self.found is None:
            return Progress()
        saved = self.found.contents
        with saved.well_formed():
            _load_model(self._model, None if self._everything else selection, saved.part("model"))
            load_optimizer(optimizer, saved.part("optimizer"))
            progress = saved.facts["progress"]
            done = Progress(**{**progress, "record": Record(**progress["record"])})
            if not 0 < done.record.steps < total:
                raise ValueError(f"{done.record.steps} steps of {total} are taken")
        return done

    def batches(self) -> tuple[Iterable[Any], Iterable[Any]]:
        """The retain loader, and what remains of the pass that was interrupted; random numbers are then as they were.

        Raises:
            ValueError: the loader gives other data than it did.
        """
        if self.found is None:
            return self._position, ()
        with self._call.unmoved_if_refused():
            rest = self._position.rest(self.found.contents.part("position"))
        self.found.contents.tensors.clear()  # as large as the model, if all of it changes
        self._call.going_on()
        return self._position, rest

    def after_step(self, progress: Progress, forget: ForgetTerm | None) -> None:
        """Writes a checkpoint after every so many steps.

        Raises:
            OSError: it can't be written.
        """
        if progress.record.steps % self._call.every:
            return
        state = Contents({}, {"progress": dataclasses.asdict(progress)})
        earlier = self.seconds.get("repair", 0.0)
        state.facts["seconds"] = {**self.seconds, "repair": earlier + time.perf_counter() - self._began}
        state.put("selection", _of_selection(self._selection))
        state.put("model", _of_model(self._model, None if self._everything else self._selection))
        state.put("optimizer", of_optimizer(self._optimizer))
        state.put("forget", Contents() if forget is None else forget.contents())
        state.put("position", self._position.contents())
        self._call.write(progress.record.steps, state)

    def until_done(self) -> contextlib.AbstractContextManager[None]:
        """Removes the file when the work inside is done, or diverged: it would do so again."""
        return self._call.until_done(DivergedError)


def _of_selection(selection: Selection) -> Contents:
    tensors = {f"indices/{t}": index for t, index in enumerate(selection.indices)}
    threshold = None if selection.threshold is None else float(selection.threshold)
    about = {"shapes": selection.shapes, "names": selection.names, "threshold": threshold, "seed": selection.seed}
    return Contents(tensors, about)


def _of_model(model: nn.Module, selection: Selection | None) -> Contents:
    """Buffers, and of the parameters the selected values, or all without a selection."""
    parameters = {name: p.detach() for name, p in trainable(model).items()}
    values = list(parameters.values())
    if selection is not None:
        values = ops.sparse_gather(values, selection.indices)
    tensors = {f"parameters/{name}": value for name, value in zip(parameters, values, strict=True)}
    for name, _, _, buffer in buffers_of(model):
        if buffer is not None:
            tensors[f"buffers/{name}"] = buffer
    return Contents(tensors)


@torch.no_grad()
def _load_model(model: nn.Module, selection: Selection | None, saved: Contents) -> None:
    parameters = trainable(model)
    values = [saved.tensors[f"parameters/{name}"].to(p.device) for name, p in parameters.items()]
    if selection is None:
        for p, value in zip(parameters.values(), values, strict=True):
            p.copy_(value)
    else:
        ops.sparse_scatter_([p.detach() for p in parameters.values()], selection.indices, values)
    held = {
        name.removeprefix("buffers/"): value for name, value in saved.tensors.items() if name.startswith("buffers/")
    }
    device = next(iter(parameters.values())).device
    for name, module, key, buffer in list(buffers_of(model)):
        kept = held.pop(name) if name in held else None
        if kept is None:
            module._buffers[key] = None
        elif buffer is not None and (kept.shape, kept.dtype) == (buffer.shape, buffer.dtype):
            buffer.copy_(kept)
        else:  # a forward pass had put another one there
            module._buffers[key] = kept.to(device if buffer is None else buffer.device)
    for name, value in held.items():  # that a forward pass had registered
        prefix, _, key = name.rpartition(".")
        model.get_submodule(prefix).register_buffer(key, value.to(device))
