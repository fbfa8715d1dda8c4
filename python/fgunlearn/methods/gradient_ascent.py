"""Gradient ascent on the forget data."""

from __future__ import annotations

from typing import Any

from torch import nn

from fgunlearn.batches import Loader, LossFunction, checked_loss, known_size
from fgunlearn.methods.descent import Descent, checked, descend
from fgunlearn.methods.passes import Pass, Terms
from fgunlearn.methods.resumable import resumable
from fgunlearn.resuming import Checkpoint
from fgunlearn.unlearning.changing import changing
from fgunlearn.unlearning.result import Result
from fgunlearn.unlearning.schedule import Schedule


def gradient_ascent(
    model: nn.Module,
    forget_loader: Loader,
    retain_loader: Loader,
    *,
    epochs: int = 5,
    lr: float = 1e-4,
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
    """SGD up the loss of D_u over all parameters; D_r is not looked at, so it soon suffers too.

    Source: Golatkar, Achille and Soatto, CVPR 2020, arXiv 1911.04933 ("negative gradient"), and Thudi et al.,
    "Unrolling SGD", EuroS&P 2022, arXiv 2109.13398. Defaults: those of Jia et al., NeurIPS 2023, arXiv 2304.04934.

    Args:
        model: parameters that require grad take part.
        forget_loader: D_u.
        retain_loader: not read.
        epochs: passes over D_u.
        lr: the largest learning rate. The loss has no upper bound: a large one ruins the model.
        momentum: of SGD.
        weight_decay: of SGD; it still shrinks the weights.
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
    descent = Descent(
        epochs=epochs, lr=lr, momentum=momentum, weight_decay=weight_decay, schedule=schedule, warmup=warmup
    )
    of = checked(model, loss_fn, seed, "gradient_ascent")

    def climb(batch: Any, done: float) -> Terms:
        loss = -checked_loss(of(model, batch))
        return Terms(loss, known_size(batch) or 0, forget=loss)

    with resumable(checkpoint, "gradient_ascent", model, descent, forget_loader=forget_loader, loss_fn=of) as steps:
        ascent = Pass.over(forget_loader, "forget_loader", climb)
        with changing(model) as result:
            descend(result, descent, [[ascent]] * epochs, phase="ascent", progress=progress, steps=steps)
    return result
