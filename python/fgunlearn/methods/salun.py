"""SalUn: random labels, learned by the weights that matter most for the forget data and by no others."""

from __future__ import annotations

from torch import nn

from fgunlearn.batches import Loader, LossFunction, count_batches, device_of
from fgunlearn.methods.descent import Descent, checked, descend
from fgunlearn.methods.passes import Pass, retain_terms
from fgunlearn.methods.random_label import forget_terms
from fgunlearn.methods.resumable import resumable
from fgunlearn.methods.wrong_labels import with_wrong_labels
from fgunlearn.resuming import Checkpoint
from fgunlearn.selection import TopK, select
from fgunlearn.unlearning.changing import changing, timed
from fgunlearn.unlearning.result import Result
from fgunlearn.unlearning.schedule import Schedule


def salun(
    model: nn.Module,
    forget_loader: Loader,
    retain_loader: Loader,
    *,
    ratio: float = 0.5,
    epochs: int = 10,
    lr: float = 0.013,
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
    r"""Random labels on a saliency mask: the coordinates with the largest \|gradient of the loss of D_u\|.

    The gradient is the mean over D_u at the source model, in eval mode; half of the coordinates is the paper's median
    threshold. Then as :func:`fgunlearn.methods.random_label`, but only the mask moves, weight decay included.

    Source: Fan et al., "SalUn: empowering machine unlearning via gradient-based weight saliency", ICLR 2024, arXiv
    2310.12508.

    Args:
        model: parameters that require grad take part; returns logits of shape (batch, classes).
        forget_loader: D_u, ``(x, y)`` batches with class numbers y of shape (batch,); held in memory.
        retain_loader: D_r; batches of any form that ``loss_fn`` takes.
        ratio: share of the coordinates in the mask, in [0, 1].
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
    strategy = TopK(ratio, score="grad")
    descent = Descent(
        epochs=epochs, lr=lr, momentum=momentum, weight_decay=weight_decay, schedule=schedule, warmup=warmup
    )
    loss_fn = checked(model, loss_fn, seed, "salun")
    with resumable(
        checkpoint,
        "salun",
        model,
        descent,
        forget_loader=forget_loader,
        retain_loader=retain_loader,
        loss_fn=loss_fn,
        options={"ratio": ratio, "seed": seed},
    ) as steps:
        count_batches(forget_loader, "forget_loader")
        retain = Pass.over(retain_loader, "retain_loader", retain_terms(model, loss_fn))
        seconds: dict[str, float] = {}
        with timed(seconds, "select", device_of(model)):
            selection = select(model, forget_loader, loss_fn, strategy, progress=progress)
        with changing(model, selection) as result:
            result.seconds.update(seconds)
            with timed(result.seconds, "relabel", device_of(model)):
                wrong = with_wrong_labels(model, forget_loader, seed, "salun")
            forget = Pass.over(wrong, "forget_loader", forget_terms(model, loss_fn))
            descend(result, descent, [[forget, retain]] * epochs, phase="finetune", progress=progress, steps=steps)
    return result
