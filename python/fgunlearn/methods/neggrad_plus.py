"""NegGrad+: down the loss of the remaining data and up that of the forget data, in the same step."""

from __future__ import annotations

from typing import Any

from torch import nn

from fgunlearn.arguments import check_number
from fgunlearn.batches import Loader, LossFunction, checked_loss, count_batches, known_size
from fgunlearn.methods.descent import Descent, checked, descend
from fgunlearn.methods.passes import Endless, Pass, Terms
from fgunlearn.methods.resumable import resumable
from fgunlearn.resuming import Checkpoint
from fgunlearn.unlearning.changing import changing
from fgunlearn.unlearning.result import Result
from fgunlearn.unlearning.schedule import Schedule


def neggrad_plus(
    model: nn.Module,
    forget_loader: Loader,
    retain_loader: Loader,
    *,
    beta: float = 0.95,
    epochs: int = 5,
    lr: float = 0.01,
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
    """SGD on ``beta * loss(D_r) - (1 - beta) * loss(D_u)`` over all parameters.

    A step takes one batch of each, in two forward passes; D_u starts over as often as D_r needs it.

    Source: Kurmanji, Triantafillou, Hayes and Triantafillou, "Towards unbounded machine unlearning", NeurIPS 2023,
    arXiv 2302.09880, where it is the strong baseline and beta is tuned for each task.

    Args:
        model: parameters that require grad take part.
        forget_loader: D_u.
        retain_loader: D_r.
        beta: weight of the loss on D_r, in [0, 1].
        epochs: passes over D_r.
        lr: the largest learning rate.
        momentum: of SGD.
        weight_decay: of SGD.
        schedule: "constant", "linear", "cosine" or "onecycle".
        warmup: of "onecycle".
        loss_fn: see :mod:`fgunlearn.methods`.
        heldout_loader: not read.
        seed: nothing is drawn.
        progress: show a progress bar on a terminal.
        checkpoint: see :mod:`fgunlearn.methods`.

    Raises:
        TypeError, ValueError: what is wrong with which argument; it diverged.
    """
    check_number(beta, "beta", low=0.0, high=1.0)
    descent = Descent(
        epochs=epochs, lr=lr, momentum=momentum, weight_decay=weight_decay, schedule=schedule, warmup=warmup
    )
    of = checked(model, loss_fn, seed, "neggrad_plus")
    gone = Endless(forget_loader, "forget_loader")

    def both(batch: Any, done: float) -> Terms:
        other = next(gone)
        retain, forget = checked_loss(of(model, batch)), -checked_loss(of(model, other))
        samples = (known_size(batch) or 0) + (known_size(other) or 0)
        return Terms(beta * retain + (1.0 - beta) * forget, samples, retain, forget)

    with resumable(
        checkpoint,
        "neggrad_plus",
        model,
        descent,
        forget_loader=forget_loader,
        retain_loader=retain_loader,
        loss_fn=of,
        options={"beta": beta},
    ) as steps:
        count_batches(forget_loader, "forget_loader")
        joint = Pass.over(retain_loader, "retain_loader", both)
        with changing(model) as result:
            plan = [[joint]] * epochs
            descend(result, descent, plan, phase="neggrad", progress=progress, steps=steps, beside=gone)
    return result
