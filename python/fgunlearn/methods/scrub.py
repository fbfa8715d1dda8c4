"""SCRUB: a student that disobeys its teacher on the forget data and obeys on the rest."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fgunlearn.arguments import check_count, check_number
from fgunlearn.batches import Loader, LossFunction, checked_loss, device_of, moved
from fgunlearn.methods.descent import Descent, checked, descend
from fgunlearn.methods.passes import Pass, Terms
from fgunlearn.methods.resumable import resumable
from fgunlearn.methods.wrong_labels import labelled
from fgunlearn.resuming import Checkpoint
from fgunlearn.unlearning.changing import changing, timed
from fgunlearn.unlearning.result import Result
from fgunlearn.unlearning.schedule import Schedule


def scrub(
    model: nn.Module,
    forget_loader: Loader,
    retain_loader: Loader,
    *,
    epochs: int = 5,
    max_epochs: int = 3,
    alpha: float = 0.5,
    gamma: float = 1.0,
    temperature: float = 4.0,
    lr: float = 5e-4,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: Schedule = "constant",
    warmup: float = 0.3,
    loss_fn: LossFunction | None = None,
    heldout_loader: Loader | None = None,
    seed: int = 0,
    progress: bool = False,
    checkpoint: Checkpoint | None = None,
) -> Result:
    """Away from the source model on D_u, close to it and to the labels on D_r.

    With p_s, p_u the class probabilities of the source model (the teacher, in eval mode) and of the model, each epoch
    has max-steps, only in the first ``max_epochs`` epochs: over D_u, on ``-KL(p_s || p_u)``; and then min-steps: over
    D_r, on ``alpha * KL(p_s || p_u) + gamma * cross entropy``. KL is the mean over the batch, of logits divided by
    ``temperature``, and times its square, so that gradients keep their size.

    Source: Kurmanji, Triantafillou, Hayes and Triantafillou, "Towards unbounded machine unlearning", NeurIPS 2023,
    arXiv 2302.09880; without its rewinding variant. Weights and temperature as its authors set them on small data sets.

    Args:
        model: parameters that require grad take part; returns logits of shape (batch, classes).
        forget_loader: D_u, ``(x, y)`` batches.
        retain_loader: D_r, ``(x, y)`` batches.
        epochs: passes over D_r.
        max_epochs: the first epochs, in which D_u has max-steps; at most ``epochs``.
        alpha: weight of the divergence on D_r, >= 0.
        gamma: weight of the cross entropy on D_r, >= 0.
        temperature: > 0.
        lr: the largest learning rate.
        momentum: of SGD.
        weight_decay: of SGD.
        schedule: "constant", "linear", "cosine" or "onecycle".
        warmup: of "onecycle".
        loss_fn: in place of the cross entropy; the divergences always are of ``model(x)``. It costs a forward pass.
        heldout_loader: not read.
        seed: nothing is drawn.
        progress: show a progress bar on a terminal.
        checkpoint: see :mod:`fgunlearn.methods`.

    Raises:
        TypeError, ValueError: what is wrong with which argument; batches that are not ``(x, y)``; a model that does not
            return logits; it diverged.
    """
    descent = Descent(
        epochs=epochs, lr=lr, momentum=momentum, weight_decay=weight_decay, schedule=schedule, warmup=warmup
    )
    check_count(max_epochs, "max_epochs", low=0)
    if max_epochs > epochs:
        raise ValueError(f"max_epochs must be at most epochs, {epochs}, got {max_epochs}")
    check_number(alpha, "alpha", low=0.0)
    check_number(gamma, "gamma", low=0.0)
    check_number(temperature, "temperature", low=0.0, above=True)
    checked(model, loss_fn, seed, "scrub")
    device = device_of(model)
    with (
        resumable(
            checkpoint,
            "scrub",
            model,
            descent,
            forget_loader=forget_loader,
            retain_loader=retain_loader,
            loss_fn=loss_fn,
            options={"max_epochs": max_epochs, "alpha": alpha, "gamma": gamma, "temperature": temperature},
        ) as steps,
        changing(model) as result,
    ):
        with timed(result.seconds, "teacher", device):
            teacher = copy.deepcopy(model).eval().requires_grad_(False)

        def divergence(x: Any, logits: Tensor) -> Tensor:
            with torch.no_grad():
                taught = F.log_softmax(_logits(teacher(x)) / temperature, dim=1)
            learned = F.log_softmax(logits / temperature, dim=1)
            return temperature**2 * F.kl_div(learned, taught, reduction="batchmean", log_target=True)

        def disobey(batch: Any, done: float) -> Terms:
            x = moved(labelled(batch, "scrub")[0], device)
            logits = _logits(model(x))
            loss = -checked_loss(divergence(x, logits))
            return Terms(loss, len(logits), forget=loss)

        def obey(batch: Any, done: float) -> Terms:
            x, y = labelled(batch, "scrub")
            x = moved(x, device)
            logits = _logits(model(x))
            task = F.cross_entropy(logits, y.to(device)) if loss_fn is None else checked_loss(loss_fn(model, batch))
            return Terms(alpha * divergence(x, logits) + gamma * task, len(logits), retain=task)

        maximise = Pass.over(forget_loader, "forget_loader", disobey)
        minimise = Pass.over(retain_loader, "retain_loader", obey)
        plan = [[maximise, minimise]] * max_epochs + [[minimise]] * (epochs - max_epochs)
        descend(result, descent, plan, phase="scrub", progress=progress, steps=steps)
    return result


def _logits(output: object) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() != 2:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"scrub needs a model that returns logits of shape (batch, classes), got {found}")
    return output
