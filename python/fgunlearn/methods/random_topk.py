"""Random-TopK: perturb and repair some coordinates that matter most for the forget data, and some others."""

from __future__ import annotations

from typing import Literal

from torch import nn

from fgunlearn.batches import Loader, LossFunction
from fgunlearn.methods.selective import SCORE, unlearn_by
from fgunlearn.perturb import Perturbation
from fgunlearn.resuming import Checkpoint
from fgunlearn.selection import RandomTopK, Scope, ScoreKind
from fgunlearn.selection.streaming import Memory
from fgunlearn.unlearning import Repair
from fgunlearn.unlearning.result import Result


def random_topk(
    model: nn.Module,
    forget_loader: Loader,
    retain_loader: Loader,
    *,
    ratio: float | None = None,
    k: int | None = None,
    top_share: float = 0.5,
    score: ScoreKind = SCORE,
    scope: Scope = "global",
    perturb: Perturbation | Literal["default"] | None = "default",
    repair: Repair | None = None,
    memory: Memory = "dense",
    memory_budget: int | None = None,
    loss_fn: LossFunction | None = None,
    heldout_loader: Loader | None = None,
    seed: int = 0,
    progress: bool = False,
    checkpoint: Checkpoint | None = None,
) -> Result:
    """:func:`fgunlearn.unlearn` on floor(top_share * k) coordinates by score and the rest drawn uniformly.

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
        top_share: share of the k that is ranked by score, in [0, 1]; the rest is drawn.
        score: what to rank by, see :func:`fgunlearn.score`.
        scope: "global", "tensor" or "channel", see :class:`fgunlearn.RandomTopK`.
        perturb: Gaussian, Reset, Shrink, Zero or Ascent; None for no perturbation; "default" for the recipe's.
        repair: its options; the recipe's where None.
        memory: how scores are held, and
        memory_budget: for "streaming", how much of them at a time; see :func:`fgunlearn.unlearn`.
        loss_fn: see :mod:`fgunlearn.methods`.
        heldout_loader: data never trained on, in batches like the others: to choose the recipe by, and for the rule
            that stops forgetting or the targets made of it; not read by a repair without a forget term, such as the
            default with a ``loss_fn``.
        seed: of the coordinates that are drawn; and of the repair where none is given.
        progress: show progress bars on a terminal.
        checkpoint: see :mod:`fgunlearn.methods`.

    Raises:
        TypeError, ValueError: what is wrong with which argument; it diverged.
    """
    return unlearn_by(
        lambda share: RandomTopK(share, k=k, top_share=top_share, score=score, seed=seed, scope=scope),
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
        memory=memory,
        memory_budget=memory_budget,
        checkpoint=checkpoint,
    )
