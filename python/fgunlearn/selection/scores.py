"""How much each coordinate matters for the data to forget."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from fgunlearn import ops
from fgunlearn.batches import (
    Loader,
    LossFunction,
    batch_size,
    checked_loss,
    cross_entropy,
    evaluation_mode,
    with_last,
)
from fgunlearn.ops.select import unpacked
from fgunlearn.parameters import trainable
from fgunlearn.progress import track
from fgunlearn.scoring import ScoreKind

FISHER_RATIO_DAMPING = 1e-3
"""eps of ``fisher_ratio``, in units of the mean of F_r: keeps coordinates that nothing depends on from the top."""

ACCUMULATED = {
    "grad": "grad",
    "saliency": "grad",
    "abs_grad": "abs_grad",
    "fisher": "fisher",
    "fisher_ratio": "fisher",
}
"""What one batch adds to the running score, by kind."""


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

    Of sharded parameters (DTensors) the scores are DTensors, of the loaders of all processes together, as
    :func:`fgunlearn.select` says; all of them have to call this.

    Args:
        model: parameters that require grad are scored.
        loader: any iterable of batches; read once.
        loss_fn: ``loss_fn(model, batch) -> scalar``, the mean over the batch; cross entropy on ``(x, y)`` by default.
        kind: see above.
        retain_loader: the remaining data, or a sample of it; for ``fisher_ratio`` only.
        progress: show a progress bar on a terminal.

    Returns:
        Parameter name to a contiguous tensor of its shape on its device (a DTensor for a DTensor), all values >= 0.

    Raises:
        ValueError: an unknown kind; an empty loader; no ``retain_loader`` for ``fisher_ratio``; a loss that is not a
            scalar or has no graph; a score that came out NaN or infinite (parameter and count are named).
        TypeError: a loss or batch of another type than described.
    """
    # Above this module:
    from fgunlearn.distributed.agreement import agree, errors_told
    from fgunlearn.distributed.layout import distributed_as
    from fgunlearn.distributed.processes import processes_of
    from fgunlearn.distributed.scoring import scores_over

    loss_fn = cross_entropy if loss_fn is None else loss_fn
    with errors_told(None, model, "fgunlearn.score"):
        parameters = trainable(model)
        processes = processes_of({f"parameter {name!r}": p for name, p in parameters.items()})

    def checked() -> dict[str, Any]:
        if kind not in get_args(ScoreKind):
            raise ValueError(f"kind must be one of {', '.join(map(repr, get_args(ScoreKind)))}, got {kind!r}")
        check_retain_loader(kind, retain_loader)
        return {"kind": kind, "parameters": [(name, tuple(p.shape), p.dtype) for name, p in parameters.items()]}

    if processes is None:
        checked()
    else:
        agree(processes, "fgunlearn.score", checked)
        parts = scores_over(model, parameters, loader, loss_fn, kind, retain_loader, progress, processes)
        return {name: distributed_as(parameters[name], part) for name, part in parts.items()}
    with evaluation_mode(model):
        scores = accumulate(model, parameters, loader, loss_fn, ACCUMULATED[kind], "loader", progress)
        if kind == "fisher_ratio":
            assert retain_loader is not None
            retain = accumulate(model, parameters, retain_loader, loss_fn, "fisher", "retain_loader", progress)
            n = sum(t.numel() for t in retain.values())
            eps = damping([float(t.sum(dtype=torch.float64)) for t in retain.values()], n)
            for name, kept in retain.items():
                scores[name].div_(kept.add_(eps))
    with torch.no_grad():
        for name, accumulated in scores.items():
            if kind == "saliency":
                accumulated.mul_(parameters[name])
            if kind in ("grad", "saliency"):
                accumulated.abs_()
    refuse_nonfinite(scores)
    return scores


def check_retain_loader(kind: ScoreKind, retain_loader: Loader | None) -> None:
    """Refuses "fisher_ratio" without data to keep.

    Raises:
        ValueError: there is none.
    """
    if kind == "fisher_ratio" and retain_loader is None:
        raise ValueError("kind='fisher_ratio' needs retain_loader, the data to keep")


def damping(totals: Sequence[float], n: int) -> float:
    """eps of ``fisher_ratio``, from the sum of F_r over each parameter and the number of coordinates."""
    return max(FISHER_RATIO_DAMPING * sum(totals) / max(n, 1), float(torch.finfo(torch.float32).tiny))


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
    sums, seen = accumulate_sums(model, parameters, loader, loss_fn, kind, argument, progress)
    for accumulated in sums.values():
        accumulated.div_(seen)
    return sums


def accumulate_sums(
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    loader: Loader,
    loss_fn: LossFunction,
    kind: str,
    argument: str,
    progress: bool,
) -> tuple[dict[str, Tensor], int]:
    """What :func:`accumulate` divides: sums weighted by the batches' sizes, and the number of samples.

    Of DTensors this process's parts of the sums over all processes.
    """
    from fgunlearn.distributed.processes import processes_of
    from fgunlearn.distributed.scoring import sums_over

    processes = processes_of(parameters)
    if processes is not None:
        found = sums_over(model, parameters, loader, loss_fn, kind, argument, progress, processes)
        return found.values, found.seen
    sums = _zeros(parameters)
    seen = 0
    for size, gradients, _ in _gradients(model, parameters, loader, loss_fn, kind, argument, progress):
        _accumulate(sums, gradients, kind, size)
        del gradients
        seen += size
    return sums, seen


def top_scores(
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    loader: Loader,
    loss_fn: LossFunction,
    kind: str,
    k: Sequence[int],
    each: bool,
    progress: bool,
    fused: bool = True,
) -> tuple[list[Tensor], Tensor, int]:
    """The top coordinates by ``score(..., kind)`` without a pass over the scores: the last batch's pass selects.

    What is ranked is the sum over batches before its division by the number of samples N. That is the score's own
    order, save where two different sums become one quotient: there the larger sum wins, not the smaller index.

    Args:
        model: see :func:`score`.
        parameters: the model's trainable ones.
        loader: see :func:`score`.
        loss_fn: see :func:`score`.
        kind: one of ``fgunlearn.scoring.FUSED_KINDS``.
        k: how many of all; or with ``each`` one number per parameter.
        each: select from each parameter by itself.
        progress: see :func:`score`.
        fused: False accumulates and selects one after the other, as is done where the last batch's loss does not reach
            every parameter; the answer is the same, bit for bit.

    Returns:
        Indices per parameter, the thresholds (float64, of the sums), and N.
    """
    sums = _zeros(parameters)
    keys = list(sums.values())
    seen = 0
    with evaluation_mode(model):
        for size, gradients, last in _gradients(model, parameters, loader, loss_fn, kind, "loader", progress):
            seen += size
            complete = [g.detach() for g in gradients if g is not None]
            if last and fused and len(complete) == len(keys):
                try:
                    packed, offsets, threshold = ops.score_accumulate_topk_(keys, complete, kind, float(size), k, each)
                except RuntimeError as error:
                    _explain_nonfinite(error, sums)
                    raise
                if bool(threshold.isnan().any()):  # all that CUDA can say
                    refuse_nonfinite(sums)
                return unpacked(packed, offsets, [s.numel() for s in keys]), threshold, seen
            _accumulate(sums, gradients, kind, size)
            del gradients, complete
    refuse_nonfinite(sums)
    indices, threshold = ops.topk_select_each(keys, k) if each else ops.topk_select(keys, k[0])
    return indices, threshold, seen


def quotient(threshold: float, parameters: dict[str, nn.Parameter], seen: int) -> float:
    """A threshold of sums as one of scores: divided and rounded as :func:`score` does it to the sum it belongs to."""
    kinds = {torch.float64 if p.dtype == torch.float64 else torch.float32 for p in parameters.values()}
    value = torch.tensor([threshold], dtype=torch.float64, device=next(iter(parameters.values())).device)
    narrow = value.float()
    # In a mixed list, a sum that float32 can't hold is one of a float64 parameter.
    belongs = narrow if torch.float32 in kinds and float(narrow) == threshold else value
    return float(belongs.div_(seen))


def _zeros(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {
        name: torch.zeros(p.shape, dtype=torch.float64 if p.dtype == torch.float64 else torch.float32, device=p.device)
        for name, p in parameters.items()
    }


def _gradients(
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    loader: Loader,
    loss_fn: LossFunction,
    kind: str,
    argument: str,
    progress: bool,
) -> Iterator[tuple[int, Sequence[Tensor | None], bool]]:
    """Per batch its size, its gradients, and whether it is the last; batches without samples are left out."""
    sized = ((batch, batch_size(batch)) for batch in track(loader, f"score ({kind})", progress))
    nothing = True
    for (batch, size), last in with_last((batch, size) for batch, size in sized if size > 0):
        nothing = False
        with torch.enable_grad():
            loss = checked_loss(loss_fn(model, batch))
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        del loss
        yield size, gradients, last
        del gradients  # before the next batch's are made
    if nothing:
        raise ValueError(f"{argument} is empty: there is no data to take gradients on")


def _accumulate(sums: dict[str, Tensor], gradients: Sequence[Tensor | None], kind: str, size: int) -> None:
    reached = [(s, g.detach()) for s, g in zip(sums.values(), gradients, strict=True) if g is not None]
    ops.score_accumulate_([s for s, _ in reached], [g for _, g in reached], kind, float(size))


def refuse_nonfinite(scores: dict[str, Tensor]) -> None:
    """Raises a ValueError that names the first parameter with a NaN or infinite score, and their count."""
    counts = ops.count_nonfinite(list(scores.values()))
    for name, count in zip(scores, counts.tolist(), strict=True):
        if count:
            raise nonfinite(name, scores[name].numel(), count)


def _explain_nonfinite(error: RuntimeError, sums: dict[str, Tensor]) -> None:
    """Raises what :func:`refuse_nonfinite` would, if that is the error."""
    found = re.search(r"score\[(\d+)\] holds (\d+) NaN or infinite", str(error))
    if found is not None:
        name = list(sums)[int(found[1])]
        raise nonfinite(name, sums[name].numel(), int(found[2])) from None


def nonfinite(name: str, numel: int, count: int) -> ValueError:
    """What a parameter's NaN and infinite scores are refused with."""
    return ValueError(
        f"the score of {name!r} has {count} NaN or infinite values of {numel}: "
        "the loss or its gradient overflowed on this data"
    )
