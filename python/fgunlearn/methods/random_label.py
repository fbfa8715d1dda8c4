"""Random labels: teach the model nonsense about the forget data, and the truth about the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from fgunlearn.batches import Loader, LossFunction, checked_loss, count_batches, device_of, known_size
from fgunlearn.methods.descent import Descent, checked, descend
from fgunlearn.methods.passes import Pass, Terms, retain_terms
from fgunlearn.methods.resumable import resumable
from fgunlearn.methods.wrong_labels import with_wrong_labels
from fgunlearn.resuming import Checkpoint
from fgunlearn.unlearning.changing import changing, timed
from fgunlearn.unlearning.result import Result
from fgunlearn.unlearning.schedule import Schedule


def random_label(
    model: nn.Module,
    forget_loader: Loader,
    retain_loader: Loader,
    *,
    epochs: int = 10,
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
    """SGD over all parameters; in each epoch once over D_u with wrong labels, then once over D_r.

    Every sample of D_u gets one wrong label for good, drawn uniformly among the other classes.

    Source: Golatkar, Achille and Soatto, CVPR 2020, arXiv 1911.04933; with D_r beside it Graves, Nagisetty and Ganesh,
    "Amnesiac machine learning", AAAI 2021, arXiv 2010.10981. The order of the passes is that of SalUn (see
    :func:`fgunlearn.methods.salun`).

    Args:
        model: parameters that require grad take part; returns logits of shape (batch, classes).
        forget_loader: D_u, ``(x, y)`` batches with class numbers y of shape (batch,); held in memory.
        retain_loader: D_r; batches of any form that ``loss_fn`` takes.
        epochs: passes over both.
        lr: the largest learning rate.
        momentum: of SGD.
        weight_decay: of SGD.
        schedule: "constant", "linear", "cosine" or "onecycle".
        warmup: of "onecycle".
        loss_fn: see :mod:`fgunlearn.methods`; also called on ``(x, wrong y)``.
        heldout_loader: not read.
        seed: of the wrong labels.
        progress: show a progress bar on a terminal.
        checkpoint: see :mod:`fgunlearn.methods`.

    Raises:
        TypeError, ValueError: what is wrong with which argument; D_u's batches are not ``(x, y)``; it diverged.
    """
    descent = Descent(
        epochs=epochs, lr=lr, momentum=momentum, weight_decay=weight_decay, schedule=schedule, warmup=warmup
    )
    loss_fn = checked(model, loss_fn, seed, "random_label")
    with resumable(
        checkpoint,
        "random_label",
        model,
        descent,
        forget_loader=forget_loader,
        retain_loader=retain_loader,
        loss_fn=loss_fn,
        options={"seed": seed},
    ) as steps:
        count_batches(forget_loader, "forget_loader")
        retain = Pass.over(retain_loader, "retain_loader", retain_terms(model, loss_fn))
        with changing(model) as result:
            with timed(result.seconds, "relabel", device_of(model)):
                wrong = with_wrong_labels(model, forget_loader, seed, "random_label")
            forget = Pass.over(wrong, "forget_loader", forget_terms(model, loss_fn))
            descend(result, descent, [[forget, retain]] * epochs, phase="finetune", progress=progress, steps=steps)
    return result


def forget_terms(model: nn.Module, loss_fn: LossFunction) -> Callable[[Any, float], Terms]:
    """The plain loss on a batch of D_u."""

    def terms(batch: Any, done: float) -> Terms:
        loss = checked_loss(loss_fn(model, batch))
        return Terms(loss, known_size(batch) or 0, forget=loss)

    return terms
