"""The checkpoints of :func:`fgunlearn.unlearn`: what its repair has changed so far, and everything it goes on with."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fgunlearn.batches import Loader, LossFunction
from fgunlearn.resuming.checkpoint import Checkpoint
from fgunlearn.resuming.file import Contents
from fgunlearn.resuming.identity import digest, digest_of_batches, fields_of, name_of
from fgunlearn.resuming.steps import Steps
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
        seconds: what the phases took before the repair.

    Args:
        checkpoint: of the user's.
        model: as it is before the call.
        forget_loader: see :func:`fgunlearn.unlearn`, as for the following two.
        retain_loader: see forget_loader.
        heldout_loader: see forget_loader.

    Raises:
        TypeError, ValueError, OSError: as :class:`fgunlearn.resuming.steps.Steps`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: nn.Module,
        forget_loader: Loader,
        retain_loader: Loader,
        heldout_loader: Loader | None,
    ) -> None:
        self._steps = Steps(checkpoint, "unlearn", model, [forget_loader, retain_loader, heldout_loader])
        self._retain_loader, self._heldout_loader = retain_loader, heldout_loader
        self.found = None if self._steps.found is None else Saved(self._steps.found)
        self.seconds: dict[str, float] = {}
        self._everything = False

    def checking(self) -> contextlib.AbstractContextManager[None]:
        """See :meth:`Call.checking`."""
        return self._steps.checking()

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
        identity = {
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
            with self._steps.aside():
                identity["the data of heldout_loader"] = digest_of_batches(self._heldout_loader, "heldout_loader")
        self._steps.agree(identity)

    def begin(self, selection: Selection, optimizer: torch.optim.Optimizer, total: int) -> Progress:
        """The repair begins, or goes on: the model, the optimizer and how far it came are then as they were.

        Args:
            selection: the selected coordinates.
            optimizer: of the repair, new.
            total: the number of steps that the repair takes.

        Raises:
            ValueError: the file is damaged.
        """
        self._selection = selection
        changing = None if self._everything else selection
        self._steps.begin(optimizer, changing, total, {"retain_loader": self._retain_loader})
        if self.found is None:
            return Progress()
        with self.found.contents.well_formed():
            progress = self.found.contents.facts["progress"]
            return Progress(**{**progress, "record": Record(**progress["record"])})

    def batches(self) -> tuple[Iterable[Any], Iterable[Any]]:
        """The retain loader, and what remains of the pass that was interrupted; random numbers are then as they were.

        Raises:
            ValueError: the loader gives other data than it did.
        """
        self.found = None  # which may be as large as the model
        rest, _ = self._steps.rest()
        return self._steps.counted("retain_loader"), rest or ()

    def after_step(self, progress: Progress, forget: ForgetTerm | None) -> None:
        """Writes a checkpoint after every so many steps.

        Raises:
            OSError: it can't be written.
        """

        def loop() -> Contents:
            found = Contents({}, {"progress": dataclasses.asdict(progress), "seconds": self.seconds})
            found.put("selection", _of_selection(self._selection))
            found.put("forget", Contents() if forget is None else forget.contents())
            return found

        self._steps.after_step(progress.record.steps, loop)

    @property
    def correction(self) -> float:
        """See :attr:`Steps.correction`."""
        return self._steps.correction

    def until_done(self) -> contextlib.AbstractContextManager[None]:
        """Removes the file when the work inside is done, or diverged: it would do so again."""
        return self._steps.until_done(DivergedError)


def _of_selection(selection: Selection) -> Contents:
    tensors = {f"indices/{t}": index for t, index in enumerate(selection.indices)}
    threshold = None if selection.threshold is None else float(selection.threshold)
    about = {"shapes": selection.shapes, "names": selection.names, "threshold": threshold, "seed": selection.seed}
    return Contents(tensors, about)
