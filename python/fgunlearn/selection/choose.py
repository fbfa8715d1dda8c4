"""From a model and the data to forget to a selection."""

from __future__ import annotations

import torch
from torch import nn

from fgunlearn.batches import Loader, LossFunction, cross_entropy
from fgunlearn.parameters import trainable
from fgunlearn.selection.channels import channels_of
from fgunlearn.selection.scores import FUSED_KINDS, quotient, score, top_scores
from fgunlearn.selection.selection import Selection
from fgunlearn.selection.strategies import RandomK, RandomTopK, Strategy, TopK, apportion, resolve_k


def select(
    model: nn.Module,
    loader: Loader,
    loss_fn: LossFunction | None,
    strategy: Strategy,
    *,
    retain_loader: Loader | None = None,
    progress: bool = False,
) -> Selection:
    """Scores the model on the data to forget as the strategy asks, and selects.

    By "grad", "abs_grad" and "fisher" the last batch's accumulation selects as well, without another read of the
    scores. What is ranked there is the sum before its division by the number of samples, so the selection is that by
    :func:`fgunlearn.score` save where the division rounds two different sums to one score: the larger sum wins. Scope
    "channel" reads the scores themselves, once more.

    Args:
        model: parameters that require grad take part.
        loader: the data to forget, any iterable of batches; not read by a strategy without a score.
        loss_fn: see :func:`fgunlearn.score`; None for cross entropy.
        strategy: TopK, RandomK or RandomTopK.
        retain_loader: the remaining data, or a sample of it; for the score ``fisher_ratio`` only.
        progress: show a progress bar on a terminal.

    Raises:
        TypeError, ValueError: what is wrong with which argument, see :func:`fgunlearn.score` and the strategies.
    """
    if not isinstance(strategy, (TopK, RandomK, RandomTopK)):
        raise TypeError(f"strategy must be a TopK, RandomK or RandomTopK, got {strategy!r}")
    parameters = trainable(model)
    numels = [p.numel() for p in parameters.values()]
    k = resolve_k(sum(numels), strategy.k, strategy.ratio)  # refused before the work
    detached = {name: p.detach() for name, p in parameters.items()}
    channels = channels_of(model) if strategy.scope == "channel" else None
    if isinstance(strategy, RandomK) or strategy.score_kind is None:
        return strategy.choose(detached, None, channels)
    top = strategy.top_count(k)
    if strategy.score_kind not in FUSED_KINDS or top == 0 or channels is not None:
        scores = score(model, loader, loss_fn, strategy.score_kind, retain_loader, progress)
        with torch.no_grad():
            return strategy.choose(detached, scores, channels)
    each = strategy.scope == "tensor"
    counts = apportion(top, numels) if each else [top]
    indices, thresholds, seen = top_scores(
        model, parameters, loader, loss_fn or cross_entropy, strategy.score_kind, counts, each, progress
    )
    threshold = None if each else quotient(float(thresholds), parameters, seen)
    return strategy.complete(detached, indices, threshold)
