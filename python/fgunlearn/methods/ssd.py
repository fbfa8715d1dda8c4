"""SSD: dampen what matters much more for the forget data than for the training data as a whole."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from fgunlearn import ops
from fgunlearn.arguments import check_number
from fgunlearn.batches import Loader, LossFunction, count_batches, device_of, evaluation_mode
from fgunlearn.methods.descent import checked
from fgunlearn.parameters import shapes_of, trainable
from fgunlearn.resuming.checkpoint import Checkpoint, check_checkpoint
from fgunlearn.selection import Selection
from fgunlearn.selection.scores import accumulate_sums, refuse_nonfinite
from fgunlearn.unlearning.changing import changing, timed
from fgunlearn.unlearning.result import Result


def ssd(
    model: nn.Module,
    forget_loader: Loader,
    retain_loader: Loader,
    *,
    alpha: float = 10.0,
    lambda_: float = 1.0,
    loss_fn: LossFunction | None = None,
    heldout_loader: Loader | None = None,
    seed: int = 0,
    progress: bool = False,
    checkpoint: Checkpoint | None = None,
) -> Result:
    """Selective synaptic dampening: ``theta_i *= min(lambda_ * F_i / F_u,i, 1)`` where ``F_u,i > alpha * F_i``.

    The importances F_u, of D_u, and F, of all training data (D_u and D_r), are the mean squares of the batches'
    gradients, weighted by their sizes: the score "fisher" of :func:`fgunlearn.score`. There is no training; one pass
    over each loader. The result's selection is what was dampened; its history is empty.

    F holds the share of D_u in the training data of F_u itself, so no ratio exceeds N / N_u: with a tenth of the data
    to forget, alpha = 10 dampens nothing, and a warning says so.

    Source: Foster, Schoepf and Brintrup, "Fast machine unlearning without retraining through selective synaptic
    dampening", AAAI 2024, arXiv 2308.07707; alpha and lambda as there for ResNet-18.

    Args:
        model: parameters that require grad take part; in eval mode meanwhile.
        forget_loader: D_u.
        retain_loader: D_r. Batches of the size of D_u's: the gradient of a small batch is noisier, and its square
            larger.
        alpha: how much larger the importance for D_u must be, >= 0.
        lambda_: how mild the dampening is, >= 0.
        loss_fn: see :mod:`fgunlearn.methods`.
        heldout_loader: not read.
        seed: nothing is drawn.
        progress: show a progress bar on a terminal.
        checkpoint: see :mod:`fgunlearn.methods`.

    Raises:
        TypeError, ValueError: what is wrong with which argument; a NaN or infinite importance.
    """
    check_number(alpha, "alpha", low=0.0)
    check_number(lambda_, "lambda_", low=0.0)
    loss_fn = checked(model, loss_fn, seed, "ssd")
    if checkpoint is not None:
        check_checkpoint(checkpoint)
    count_batches(forget_loader, "forget_loader")
    count_batches(retain_loader, "retain_loader")
    parameters = trainable(model)
    device = device_of(model)
    seconds: dict[str, float] = {}
    with timed(seconds, "importance", device), evaluation_mode(model):
        forget, gone = accumulate_sums(model, parameters, forget_loader, loss_fn, "fisher", "forget_loader", progress)
        every, kept = accumulate_sums(model, parameters, retain_loader, loss_fn, "fisher", "retain_loader", progress)
    with timed(seconds, "select", device):
        for name, total in every.items():
            total.add_(forget[name]).div_(gone + kept)
            forget[name].div_(gone)
        refuse_nonfinite(forget)
        refuse_nonfinite(every)
        selection = _exceeding(parameters, forget, every, alpha)
    if selection.k == 0:
        warnings.warn(
            f"ssd dampens nothing: no importance for D_u exceeds alpha = {alpha:g} times that for all data (no ratio "
            f"can exceed {(gone + kept) / gone:.3g} here, the training samples per sample of D_u); lower alpha",
            stacklevel=2,
        )
    with changing(model, selection) as result:
        result.seconds.update(seconds)
        result.record.samples = gone + kept
        with timed(result.seconds, "dampen", device):
            tensors = [p.detach() for p in parameters.values()]
            values = ops.sparse_gather(tensors, selection.indices)
            importances = (ops.sparse_gather(list(of.values()), selection.indices) for of in (every, forget))
            for theta, f, f_u in zip(values, *importances, strict=True):
                theta.copy_(theta * (lambda_ * f / f_u).clamp(max=1.0))
            ops.sparse_scatter_(tensors, selection.indices, values)
    return result


def _exceeding(
    parameters: dict[str, nn.Parameter], forget: dict[str, Tensor], every: dict[str, Tensor], alpha: float
) -> Selection:
    indices = [torch.nonzero((forget[name] > alpha * every[name]).reshape(-1)).squeeze(1) for name in parameters]
    return Selection(shapes_of(parameters.values()), indices, names=list(parameters))
