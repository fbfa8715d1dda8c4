"""How much each coordinate matters for the data to forget."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn

from fgunlearn import ops
from fgunlearn.batches import Loader, LossFunction, batch_size, checked_loss, cross_entropy, evaluation_mode
from fgunlearn.parameters import trainable
from fgunlearn.progress import track
from fgunlearn.selection.strategies import ScoreKind

FISHER_RATIO_DAMPING = 1e-3
"""eps of ``fisher_ratio``, in units of the mean of F_r: keeps coordinates that nothing depends on from the top."""

# What one batch adds to the running score, per kind.
_ACCUMULATED = {
    "grad": "grad",
    "saliency": "grad",
    "abs_grad": "abs_grad",
    "fisher": "fisher",
    "fisher_ratio": "fisher",
}


def score(
    model: nn.Module,
    loader: Loader,
    loss_fn: LossFunction | None = None,
    kind: ScoreKind = "grad",
    retain_loader: Loader | None = None,
    progress: bool = False,
) -> dict[str, Tensor]:
    r"""A score per coordinate over the data of ``loader``, to select by.

    With g_b the gradient of the mean loss of batch b of \|b\| samples, and N samples in all:

    ============== =====================================================================
    grad           \|sum_b \|b\|/N g_b\|
    abs_grad       sum_b \|b\|/N \|g_b\|
    fisher         sum_b \|b\|/N g_b^2  (the empirical Fisher of batches)
    saliency       \|theta sum_b \|b\|/N g_b\|
    fisher_ratio   F_u / (F_r + eps): how much more the data depends on a coordinate than
                   ``retain_loader``'s does; eps = 1e-3 times the mean of F_r
    ============== =====================================================================

    The model is in eval mode meanwhile (batch-norm statistics stay put) and comes back as it was; ``.grad`` is not
    touched. Memory: one float32 (float64 for float64 parameters) per coordinate, two for
    ``fisher_ratio``, besides autograd's gradients.

    Args:
        model: parameters that require grad are scored.
        loader: any iterable of batches; read once.
        loss_fn: ``loss_fn(model, batch) -> scalar``, the mean over the batch; cross entropy on ``(x, y)`` by default.
        kind: see above.
        retain_loader: the remaining data, or a sample of it; for ``fisher_ratio`` only.
        progress: show a progress bar on a terminal.

    Returns:
        Parameter name to a contiguous tensor of its shape, all values >= 0.

    Raises:
        ValueError: an unknown kind; an empty loader; no ``retain_loader`` for ``fisher_ratio``; a loss that is not a
            scalar or has no graph; a score that came out NaN or infinite (parameter and count are named).
        TypeError: a loss or batch of another type than described.
    """
    if kind not in get_args(ScoreKind):
        raise ValueError(f"kind must be one of {', '.join(map(repr, get_args(ScoreKind)))}, got {kind!r}")
    if kind == "fisher_ratio" and retain_loader is None:
        raise ValueError("kind='fisher_ratio' needs retain_loader, the data to keep")
    parameters = trainable(model)
    loss_fn = cross_entropy if loss_fn is None else loss_fn
    with evaluation_mode(model):
        scores = accumulate(model, parameters, loader, loss_fn, _ACCUMULATED[kind], "loader", progress)
        if kind == "fisher_ratio":
            assert retain_loader is not None
            retain = accumulate(model, parameters, retain_loader, loss_fn, "fisher", "retain_loader", progress)
            n = sum(t.numel() for t in retain.values())
            eps = FISHER_RATIO_DAMPING * sum(float(t.sum(dtype=torch.float64)) for t in retain.values()) / max(n, 1)
            eps = max(eps, float(torch.finfo(torch.float32).tiny))
            for name, kept in retain.items():
                scores[name].div_(kept.add_(eps))
    with torch.no_grad():
        for name, accumulated in scores.items():
            if kind == "saliency":
                accumulated.mul_(parameters[name])
            if kind in ("grad", "saliency"):
                accumulated.abs_()
    _refuse_nonfinite(scores)
    return scores


def accumulate(
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    loader: Loader,
    loss_fn: LossFunction,
    kind: str,
    argument: str,
    progress: bool,
) -> dict[str, Tensor]:
    """The weighted mean over batches of g, abs(g) or g^2, by parameter; ``argument`` is the loader's name in errors."""
    scores = {
        name: torch.zeros(p.shape, dtype=torch.float64 if p.dtype == torch.float64 else torch.float32, device=p.device)
        for name, p in parameters.items()
    }
    seen = 0
    for batch in track(loader, f"score ({kind})", progress):
        size = batch_size(batch)
        if size == 0:
            continue
        with torch.enable_grad():
            loss = checked_loss(loss_fn(model, batch))
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        reached = [(s, g.detach()) for s, g in zip(scores.values(), gradients, strict=True) if g is not None]
        ops.score_accumulate_([s for s, _ in reached], [g for _, g in reached], kind, float(size))
        seen += size
    if seen == 0:
        raise ValueError(f"{argument} is empty: there is no data to take gradients on")
    for accumulated in scores.values():
        accumulated.div_(seen)
    return scores


def _refuse_nonfinite(scores: dict[str, Tensor]) -> None:
    counts = ops.count_nonfinite(list(scores.values()))
    for name, count in zip(scores, counts.tolist(), strict=True):
        if count:
            raise ValueError(
                f"the score of {name!r} has {count} NaN or infinite values of {scores[name].numel()}: "
                "the loss or its gradient overflowed on this data"
            )
