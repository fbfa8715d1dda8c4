"""Fine-tuning towards few weights: a sparse model has less room to remember in."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fgunlearn.arguments import check_number
from fgunlearn.batches import Loader, LossFunction, checked_loss, known_size
from fgunlearn.methods.descent import Descent, checked, descend
from fgunlearn.methods.passes import Pass, Terms
from fgunlearn.methods.resumable import resumable
from fgunlearn.parameters import trainable
from fgunlearn.resuming import Checkpoint
from fgunlearn.unlearning.changing import changing
from fgunlearn.unlearning.result import Result
from fgunlearn.unlearning.schedule import Schedule


def l1_sparse(
    model: nn.Module,
    forget_loader: Loader,
    retain_loader: Loader,
    *,
    gamma: float = 1e-4,
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
    r"""SGD on ``loss(D_r) + gamma_t * sum_i |theta_i|`` over all parameters; D_u is not looked at.

    ``gamma_t = gamma * (1 - t)``, t the share of the steps already taken: the penalty falls linearly from gamma to 0,
    the schedule its authors found best. It is recorded in no loss of the history.

    Source: Jia et al., "Model sparsity can simplify machine unlearning", NeurIPS 2023, arXiv 2304.04934.

    Args:
        model: parameters that require grad take part.
        forget_loader: not read.
        retain_loader: D_r.
        gamma: the penalty at the start, >= 0.
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
    check_number(gamma, "gamma", low=0.0)
    descent = Descent(
        epochs=epochs, lr=lr, momentum=momentum, weight_decay=weight_decay, schedule=schedule, warmup=warmup
    )
    of = checked(model, loss_fn, seed, "l1_sparse")
    parameters = list(trainable(model).values())
    # A sum over many weights is beyond float16, and beyond bfloat16's digits.
    wide = torch.float64 if any(p.dtype == torch.float64 for p in parameters) else torch.float32

    def penalised(batch: Any, done: float) -> Terms:
        retain = checked_loss(of(model, batch))
        # Norms of each tensor: one long vector of all would be another copy of the model.
        penalty = torch.stack([torch.linalg.vector_norm(p, 1, dtype=wide) for p in parameters]).sum()
        return Terms(retain + gamma * (1.0 - done) * penalty, known_size(batch) or 0, retain=retain)

    with resumable(
        checkpoint, "l1_sparse", model, descent, retain_loader=retain_loader, loss_fn=of, options={"gamma": gamma}
    ) as steps:
        fading = Pass.over(retain_loader, "retain_loader", penalised)
        with changing(model) as result:
            descend(result, descent, [[fading]] * epochs, phase="finetune", progress=progress, steps=steps)
    return result
