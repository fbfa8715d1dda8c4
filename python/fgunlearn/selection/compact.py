"""Scores in half the memory: sums kept in bfloat16, read once, ranked exactly as they came out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.batches import evaluation_mode
from fgunlearn.selection.arriving import CHUNK, Scratch, arriving_gradients, sum_dtype
from fgunlearn.selection.readings import Source
from fgunlearn.selection.scores import ACCUMULATED, damping, refuse_nonfinite


def compact_scores(source: Source) -> tuple[dict[str, Tensor], int]:
    r"""Scores in bfloat16 and the number of samples; undivided sums where nothing else is done to them.

    Each addition is made in float32 and its result rounded to bfloat16, by a relative error of at most u = 2\ :sup:`-8`
    (u' = 2\ :sup:`-24` of float32 is left out here). After B batches with the terms t_1, ..., t_B, a sum is off by at
    most ((1 + u)\ :sup:`B` - 1) (\|t_1\| + ... + \|t_B\|): of the sum itself for "abs_grad" and "fisher", whose terms
    are not negative; of the sum of magnitudes for "grad", whose terms cancel. That is 0.4% for one batch, 4% for 10,
    48% for 100. "saliency" is rounded once more; "fisher_ratio" divides two such sums.
    """
    parameters = source.parameters
    scratch = Scratch(next(iter(parameters.values())).device)
    sums, seen = _sums(source, "loader", scratch)
    if source.kind == "saliency":
        for name, total in sums.items():
            for part, theta in zip(_parts(total), _parts(parameters[name].detach()), strict=True):
                part.copy_(scratch.copied(part, sum_dtype(theta)).div_(seen).mul_(theta).abs_())
    if source.kind == "fisher_ratio":
        kept, kept_seen = _sums(source, "retain_loader", scratch)
        totals = [float(total.sum(dtype=torch.float64)) / kept_seen for total in kept.values()]
        eps = damping(totals, sum(source.numels))
        for name, total in sums.items():
            for part, other in zip(_parts(total), _parts(kept.pop(name)), strict=True):
                below = other.to(sum_dtype(parameters[name])).div_(kept_seen).add_(eps)
                part.copy_(scratch.copied(part, below.dtype).div_(seen).div_(below))
    refuse_nonfinite(sums)
    return sums, seen


def _sums(source: Source, argument: str, scratch: Scratch) -> tuple[dict[str, Tensor], int]:
    parameters = list(source.parameters.values())
    sums = [torch.zeros(p.shape, dtype=torch.bfloat16, device=p.device) for p in parameters]
    kind, seen = ACCUMULATED[source.kind], 0
    for batch, size in source.batches(argument):

        def receive(t: int, gradient: Tensor, size: int = size) -> None:
            for part, new in zip(_parts(sums[t]), _parts(gradient), strict=True):
                wide = scratch.copied(part, sum_dtype(new))
                ops.score_accumulate_([wide], [new], kind, float(size))
                part.copy_(wide)

        arriving_gradients(source.model, source.parameters, batch, source.loss_fn, receive)
        seen += size
    return dict(zip(source.parameters, sums, strict=True)), seen


def _parts(tensor: Tensor) -> Sequence[Tensor]:
    """Flat parts in C order: what is made of one part needs little memory beside the whole."""
    return tensor.reshape(-1).split(CHUNK)


def top_compact(source: Source, k: Sequence[int], each: bool) -> tuple[list[Tensor], float | None, int]:
    """The top coordinates by :func:`compact_scores`; arguments and answer as those of ``top_streaming``."""
    with torch.no_grad(), evaluation_mode(source.model):
        sums, seen = compact_scores(source)
        keys = list(sums.values())
        if each:
            return ops.topk_select_each(keys, k)[0], None, seen
        indices, threshold = ops.topk_select(keys, k[0])
    return indices, float(threshold), seen
