"""Random-k: perturb and repair a uniform choice of coordinates."""

from __future__ import annotations

from typing import Literal

from torch import nn

from fgunlearn.batches import Loader, LossFunction
from fgunlearn.methods.selective import unlearn_by
from fgunlearn.perturb import Perturbation
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
) -> Result:
    """:func:`fgunlearn.unlearn` on k coordinates drawn uniformly: no score, so nothing to compute.

    By default the recipe that was found best (:data:`fgunlearn.methods.selective.FORGET_TERM`): 70% of the coordinates,
    weights halved, two epochs with a term that pulls D_u towards its neighbours in D_r. With a ``loss_fn``, for which
    that term is not defined, the paper's (``PERTURB_REPAIR``): half of the coordinates, weights zeroed, two epochs.

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
        heldout_loader: data never trained on, in batches like the others, for the rule that stops forgetting; not read
            where there is nothing to stop: by a repair without a forget term, such as the default with a ``loss_fn``.
        seed: of the coordinates; and of the repair where none is given.
        progress: show progress bars on a terminal.

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
    )
