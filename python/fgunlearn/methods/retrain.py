"""Retraining: the one exact method, and the yardstick of the others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from fgunlearn.batches import Loader, LossFunction, device_of
from fgunlearn.methods.descent import Descent, checked, descend
from fgunlearn.methods.fresh import fresh
from fgunlearn.methods.passes import Pass, retain_terms
from fgunlearn.methods.resumable import resumable
from fgunlearn.parameters import trainable
from fgunlearn.resuming import Checkpoint
from fgunlearn.resuming.identity import name_of
from fgunlearn.unlearning.changing import changing, timed
from fgunlearn.unlearning.result import Result
from fgunlearn.unlearning.schedule import Schedule


def retrain(
    model: nn.Module,
    forget_loader: Loader,
    retain_loader: Loader,
    *,
    new_model: Callable[[], nn.Module] | None = None,
    epochs: int = 30,
    lr: float = 0.1,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 5e-4,
    schedule: Schedule = "onecycle",
    warmup: float = 0.3,
    loss_fn: LossFunction | None = None,
    heldout_loader: Loader | None = None,
    seed: int = 0,
    progress: bool = False,
    checkpoint: Checkpoint | None = None,
) -> Result:
    """Trains the model from scratch on D_r: fresh weights and statistics, then SGD.

    Give it the options that the source model was trained with; the defaults are those of this package's experiments.
    Parameters that don't require grad stay what they are.

    Args:
        model: parameters that require grad start over.
        forget_loader: not read.
        retain_loader: D_r.
        new_model: makes an untrained model of the same architecture, whose values are copied; None for the layers' own
            ``reset_parameters``, which does not know of an initialisation of the model's own.
        epochs: passes over D_r.
        lr: the largest learning rate.
        momentum: of SGD.
        nesterov: of SGD; only with momentum.
        weight_decay: of SGD.
        schedule: "constant", "linear", "cosine" or "onecycle".
        warmup: of "onecycle".
        loss_fn: see :mod:`fgunlearn.methods`.
        heldout_loader: not read.
        seed: of the fresh weights, drawn from torch's CPU generator, which afterwards goes on where it was.
        progress: show a progress bar on a terminal.
        checkpoint: see :mod:`fgunlearn.methods`.

    Raises:
        TypeError, ValueError: what is wrong with which argument; a layer without ``reset_parameters``; it diverged.
    """
    descent = Descent(
        epochs=epochs,
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        schedule=schedule,
        warmup=warmup,
    )
    loss_fn = checked(model, loss_fn, seed, "retrain")
    options = {"seed": seed, "new_model": None if new_model is None else name_of(new_model)}
    with resumable(
        checkpoint, "retrain", model, descent, retain_loader=retain_loader, loss_fn=loss_fn, options=options
    ) as steps:
        training = Pass.over(retain_loader, "retain_loader", retain_terms(model, loss_fn))
        with changing(model) as result:
            with timed(result.seconds, "initialise", device_of(model)), torch.no_grad():
                start = fresh(model, new_model, seed)
                for name, parameter in trainable(model).items():
                    parameter.copy_(start.parameters[name])
                for name, buffer in model.named_buffers():
                    buffer.copy_(start.buffers[name])
            descend(result, descent, [[training]] * epochs, phase="train", progress=progress, steps=steps)
    return result
