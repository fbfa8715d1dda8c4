"""From a model and the data to forget to a selection."""

from __future__ import annotations

import torch
from torch import nn

from fgunlearn.batches import Loader, LossFunction
from fgunlearn.parameters import trainable
from fgunlearn.selection.scores import score
from fgunlearn.selection.selection import Selection
from fgunlearn.selection.strategies import RandomK, RandomTopK, Strategy, TopK, resolve_k


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
    resolve_k(sum(p.numel() for p in parameters.values()), strategy.k, strategy.ratio)  # refused before the work
    scores = None
    if strategy.score_kind is not None:
        scores = score(model, loader, loss_fn, strategy.score_kind, retain_loader, progress)
    with torch.no_grad():
        return strategy.choose({name: p.detach() for name, p in parameters.items()}, scores)
