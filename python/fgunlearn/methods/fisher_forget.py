"""Fisher forgetting: noise on every parameter, the more the less the remaining data needs it."""

from __future__ import annotations

import torch
from torch import nn

from fgunlearn import ops
from fgunlearn.arguments import check_number
from fgunlearn.batches import Loader, LossFunction, count_batches, device_of, evaluation_mode
from fgunlearn.methods.descent import checked
from fgunlearn.ops.perturb import GAUSSIAN_STREAM
from fgunlearn.ops.select import index_dtype
from fgunlearn.parameters import trainable
from fgunlearn.resuming.checkpoint import Checkpoint, check_checkpoint
from fgunlearn.selection.scores import accumulate_sums, refuse_nonfinite
from fgunlearn.unlearning.changing import changing, timed
from fgunlearn.unlearning.result import Result


def fisher_forget(
    model: nn.Module,
    forget_loader: Loader,
    retain_loader: Loader,
    *,
    strength: float = 1e-3,
    max_std: float = 0.5,
    loss_fn: LossFunction | None = None,
    heldout_loader: Loader | None = None,
    seed: int = 0,
    progress: bool = False,
    checkpoint: Checkpoint | None = None,
) -> Result:
    """``theta_i += min(strength * F_r,i^(-1/4), max_std * rms(tensor)) * z_i`` with z_i ~ N(0, 1).

    F_r is the score "fisher" of :func:`fgunlearn.score` on D_r: the diagonal of the empirical Fisher, from the true
    labels and whole batches. The paper's optimal noise has std ``(lambda * sigma^2)^(1/4) * F^(-1/4)``: strength is
    that first factor, F there the full matrix, then its diagonal from single samples and all classes. Where D_r does
    not depend on a parameter at all, that is infinite; here ``max_std``, in units of the tensor's root mean square,
    bounds it. Nothing is repaired, D_u is not looked at, and the history is empty.

    Source: Golatkar, Achille and Soatto, "Eternal sunshine of the spotless net: selective forgetting in deep networks",
    CVPR 2020, arXiv 1911.04933.

    Args:
        model: parameters that require grad take part; in eval mode meanwhile.
        forget_loader: not read.
        retain_loader: D_r.
        strength: > 0.
        max_std: > 0.
        loss_fn: see :mod:`fgunlearn.methods`.
        heldout_loader: not read.
        seed: of the noise, which is a function of seed and global index alone.
        progress: show a progress bar on a terminal.
        checkpoint: see :mod:`fgunlearn.methods`.

    Raises:
        TypeError, ValueError: what is wrong with which argument; a NaN or infinite importance.
    """
    check_number(strength, "strength", low=0.0, above=True)
    check_number(max_std, "max_std", low=0.0, above=True)
    loss_fn = checked(model, loss_fn, seed, "fisher_forget")
    if checkpoint is not None:
        check_checkpoint(checkpoint)
    count_batches(retain_loader, "retain_loader")
    with changing(model) as result:
        parameters = trainable(model)
        with timed(result.seconds, "importance", device_of(model)), evaluation_mode(model):
            sums, seen = accumulate_sums(model, parameters, retain_loader, loss_fn, "fisher", "retain_loader", progress)
            refuse_nonfinite(sums)
            result.record.samples = seen
        with timed(result.seconds, "noise", device_of(model)), torch.no_grad():
            bounds = ops.rms([p.detach() for p in parameters.values()]).mul_(max_std).tolist()
            before = 0
            for (name, parameter), bound in zip(parameters.items(), bounds, strict=True):
                std = sums[name].div_(seen).pow(-0.25).mul_(strength).clamp_(max=bound)
                noise = torch.zeros_like(std)
                everywhere = torch.arange(noise.numel(), dtype=index_dtype(noise.numel()), device=noise.device)
                ops.sparse_perturb_(
                    [noise], [everywhere], ["normal"], [0.0], [0.0], [1.0], seed, GAUSSIAN_STREAM, [before]
                )
                parameter.add_(noise.mul_(std).to(parameter.dtype))
                before += noise.numel()
    return result
