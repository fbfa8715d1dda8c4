"""Random-k: perturb and repair a uniform choice of coordinates."""

from __future__ import annotations

from typing import Literal

from torch import nn

from fgunlearn.batches import Loader, LossFunction
from fgunlearn.methods.selective import unlearn_by
from fgunlearn.perturb import Perturbation
from fgunlearn.resuming import Checkpoint
from fgunlearn.selection import RandomK, Scope
from fgunlearn.unlearning import Repair
from fgunlearn.unlearning.result import Result


def randomk(
    model: nn.Module,
    forget_loader: Loader,
    retain_loader: Loader,
    *,
    ratio: float | None = None,
    k: int | None = None,
    scope: Scope = "global",
    perturb: Perturbation | Literal["default"] | None = "default",
    repair: Repair | None = None,
    loss_fn: LossFunction | None = None,
    heldout_loader: Loader | None = None,
    seed: int = 0,
    progress: bool = False,
    checkpoint: Checkpoint | None = None,
) -> Result:
    """:func:`fgunlearn.unlearn` on k coordinates drawn uniformly: no score, so nothing to compute.

    By default one of the recipes that were found best, on 70% of the coordinates and for two epochs. Without held-out
    data, or where it shows a model that has hardly memorised its training data,
    :data:`fgunlearn.methods.selective.FORGET_TERM`: weights halved, and a term that pulls D_u towards its neighbours in
    D_r. Where the model is right on far more of D_r than of the held-out data (by over 15 points), ``HELDOUT``: no
    perturbation, and D_u is made to look like the held-out data. With a ``loss_fn``, for which neither term is defined,
    the paper's (``PERTURB_REPAIR``): half of the coordinates, weights zeroed, two epochs.

    Source: "Machine unlearning through fine-grained model parameters perturbation", arXiv 2401.04385.

    Args:
        model: parameters that require grad take part.
        forget_loader: D_u; held in memory.
        retain_loader: D_r.
        ratio: share of the coordinates that may change; or
        k: their number. The recipe's ratio where neither is given.
        scope: "global", "tensor" or "channel", see :class:`fgunlearn.RandomK`.
        perturb: Gaussian, Reset, Shrink, Zero or Ascent; None for no perturbation; "default" for the recipe's.
        repair: its options; the recipe's where None.
        loss_fn: see :mod:`fgunlearn.methods`.
        heldout_loader: data never trained on, in batches like the others: to choose the recipe by, and for the rule
            that stops forgetting or the targets made of it; not read by a repair without a forget term, such as the
            default with a ``loss_fn``.
        seed: of the coordinates; and of the repair where none is given.
        progress: show progress bars on a terminal.
        checkpoint: see :mod:`fgunlearn.methods`.

    Raises:
        TypeError, ValueError: what is wrong with which argument; it diverged.
    """
    return unlearn_by(
        lambda share: RandomK(share, k=k, seed=seed, scope=scope),
        model,
        forget_loader,
        retain_loader,
        ratio=ratio,
        k=k,
        perturb=perturb,
        repair=repair,
        loss_fn=loss_fn,
        heldout_loader=heldout_loader,
        seed=seed,
        progress=progress,
        checkpoint=checkpoint,
    )
