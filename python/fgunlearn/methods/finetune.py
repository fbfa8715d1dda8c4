"""Fine-tuning on the remaining data, and trusting that what is not rehearsed fades."""

from __future__ import annotations

from torch import nn

from fgunlearn.batches import Loader, LossFunction
from fgunlearn.methods.descent import Descent, checked, descend
from fgunlearn.methods.passes import Pass, retain_terms
from fgunlearn.methods.resumable import resumable
from fgunlearn.resuming import Checkpoint
from fgunlearn.unlearning.changing import changing
from fgunlearn.unlearning.result import Result
from fgunlearn.unlearning.schedule import Schedule


def finetune(
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
    """A few epochs of SGD on D_r over all parameters; D_u is not looked at.

    Source: the plainest baseline, as in Golatkar, Achille and Soatto, "Eternal sunshine of the spotless net", CVPR
    2020, arXiv 1911.04933. Defaults: those of Jia et al., NeurIPS 2023, arXiv 2304.04934.

    Args:
        model: parameters that require grad take part.
        forget_loader: not read.
        retain_loader: D_r.
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
    descent = Descent(
        epochs=epochs, lr=lr, momentum=momentum, weight_decay=weight_decay, schedule=schedule, warmup=warmup
    )
    loss_fn = checked(model, loss_fn, seed, "finetune")
    with resumable(checkpoint, "finetune", model, descent, retain_loader=retain_loader, loss_fn=loss_fn) as steps:
        rehearsal = Pass.over(retain_loader, "retain_loader", retain_terms(model, loss_fn))
        with changing(model) as result:
            descend(result, descent, [[rehearsal]] * epochs, phase="finetune", progress=progress, steps=steps)
    return result
