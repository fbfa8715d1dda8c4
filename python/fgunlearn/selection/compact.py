"""Scores in half the memory: sums kept in bfloat16, read once, ranked exactly as they came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.batches import evaluation_mode
from fgunlearn.scoring import CHUNK
from fgunlearn.selection.arriving import Scratch, sum_dtype
from fgunlearn.selection.readings import Source
from fgunlearn.selection.scores import ACCUMULATED, refuse_nonfinite


def compact_scores(source: Source) -> tuple[dict[str, Tensor], int]:
    r"""Scores in bfloat16 and the number of samples; undivided sums where nothing else is done to them.

    Each addition is made in float32 and its result rounded to bfloat16, by a relative error of at most u = 2\ :sup:`-8`
    (u' = 2\ :sup:`-24` of float32 is left out here). After B batches with the terms t_1, ..., t_B, a sum is off by at
    most ((1 + u)\ :sup:`B` - 1) (\|t_1\| + ... + \|t_B\|): of the sum itself for "abs_grad" and "fisher", whose terms
    are not negative; of the sum of magnitudes for "grad", whose terms cancel. That is 0.4% for one batch, 4% for 10,
    48% for 100. "saliency" is rounded once more; "fisher_ratio" divides two such sums. Of replicas, B is the number of
    batches of the process that has most, and one: their sums are rounded once more as they are added up.

    What came out is not looked at: NaN and infinite scores are for the caller to refuse.
    """
    scratch = Scratch(source.device)
    sums, seen = _sums(source, "loader", scratch)
    if source.kind == "saliency":
        for total, theta in zip(sums, source.parts, strict=True):
            for part, values in zip(_parts(total), _parts(theta), strict=True):
                part.copy_(scratch.copied(part, sum_dtype(values)).div_(seen).mul_(values).abs_())
    if source.kind == "fisher_ratio":
        kept, kept_seen = _sums(source, "retain_loader", scratch)
        eps = source.damping([float(total.sum(dtype=torch.float64)) / kept_seen for total in kept])
        for total, theta in zip(sums, source.parts, strict=True):
            for part, other in zip(_parts(total), _parts(kept.pop(0)), strict=True):
                below = other.to(sum_dtype(theta)).div_(kept_seen).add_(eps)
                part.copy_(scratch.copied(part, below.dtype).div_(seen).div_(below))
    return dict(zip(source.parameters, sums, strict=True)), seen


def _sums(source: Source, argument: str, scratch: Scratch) -> tuple[list[Tensor], int]:
    sums = [torch.zeros(p.shape, dtype=torch.bfloat16, device=p.device) for p in source.parts]
    kind, seen = ACCUMULATED[source.kind], 0
    with source.together():
        for step in source.steps(argument):

            def receive(t: int, gradient: Tensor, size: int = step.size) -> None:
                for part, new in zip(_parts(sums[t]), _parts(gradient), strict=True):
                    wide = scratch.copied(part, sum_dtype(new))
                    ops.score_accumulate_([wide], [new], kind, float(size))
                    part.copy_(wide)

            source.take(step, range(len(sums)), receive)
            seen += step.size
    return sums, source.added_up(sums, seen, argument)


def _parts(tensor: Tensor) -> Sequence[Tensor]:
    """Flat parts in C order: what is made of one part needs little memory beside the whole."""
    return tensor.reshape(-1).split(CHUNK)


def top_compact(source: Source, k: Sequence[int], each: bool) -> tuple[list[Tensor], float | None, int]:
    """The top coordinates by :func:`compact_scores`; arguments and answer as those of ``top_streaming``."""
    with torch.no_grad(), evaluation_mode(source.model):
        scores, seen = compact_scores(source)
        refuse_nonfinite(scores)
        return (*top_of(scores, k, each), seen)


def top_of(scores: Mapping[str, Tensor], k: Sequence[int], each: bool) -> tuple[list[Tensor], float | None]:
    """Indices per parameter and the threshold; arguments as of ``top_streaming``."""
    keys = list(scores.values())
    if each:
        return ops.topk_select_each(keys, k)[0], None
    indices, threshold = ops.topk_select(keys, k[0])
    return indices, float(threshold)
