"""Checkpoints of the methods that take steps."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

from torch import nn

from fgunlearn.batches import Loader, LossFunction, check_read_again
from fgunlearn.methods.descent import Descent
from fgunlearn.resuming import Checkpoint
from fgunlearn.resuming.identity import Identity, digest_of_batches, name_of
from fgunlearn.resuming.steps import Steps
from fgunlearn.unlearning.result import DivergedError


@contextlib.contextmanager
def resumable(
    checkpoint: Checkpoint | None,
    method: str,
    model: nn.Module,
    descent: Descent,
    *,
    forget_loader: Loader | None = None,
    retain_loader: Loader | None = None,
    loss_fn: LossFunction | None = None,
    options: Mapping[str, object] | None = None,
) -> Iterator[Steps | None]:
    """What a method does inside goes on where the checkpoint's file says; see :class:`fgunlearn.Checkpoint`.

    It is done again, from the random numbers that the first call had, up to
    :func:`fgunlearn.methods.descent.descend`, which is to be given what this yields.

    Args:
        checkpoint: of the user's; without one nothing is done here.
        method: its name.
        model: as it is before the call.
        descent: what steps the method takes.
        forget_loader: D_u, if the method reads it.
        retain_loader: D_r, likewise.
        loss_fn: what is called for a loss.
        options: all else that the result is a function of, by name.

    Raises:
        TypeError, ValueError, OSError: as :class:`fgunlearn.resuming.steps.Steps`; a file of another call.
    """
    if checkpoint is None:
        yield None
        return
    steps = Steps(checkpoint, method, model, [forget_loader, retain_loader])
    with steps.checking():
        identity: Identity = {
            **{name: repr(value) for name, value in {**dataclasses.asdict(descent), **(options or {})}.items()},
            "loss_fn": name_of(loss_fn),
            "the data of forget_loader": "None",
        }
        if forget_loader is not None:
            check_read_again(forget_loader, "forget_loader")
            with steps.aside():
                identity["the data of forget_loader"] = digest_of_batches(forget_loader, "forget_loader")
        steps.agree(identity)
    with steps.until_done(DivergedError):
        yield steps
