"""From a model and the data to forget to a selection."""

from __future__ import annotations

from typing import Any

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
    group: Any = None,
) -> Selection:
    """Scores the model on the data to forget as the strategy asks, and selects.

    By "grad", "abs_grad" and "fisher" the last batch's accumulation selects as well, without another read of the
    scores. What is ranked there is the sum before its division by the number of samples, so the selection is that by
    :func:`fgunlearn.score` save where the division rounds two different sums to one score: the larger sum wins. Scope
    "channel" reads the scores themselves, once more.

    Over several processes (``torch.distributed``), all of which have to call this, each one's loader is its own part of
    the data. The processes first make sure that they agree on the model's names, shapes and dtypes and on the strategy.

    - Sharded parameters (DTensors, as FSDP2 makes them) are selected over their whole mesh, with or without ``group``.
      One batch of every process together are one batch: what is weighted by its size and, by "abs_grad" and "fisher",
      made positive is their mean gradient, which is all that a backward pass over shards gives. So every loader needs a
      batch; where one ends early, its last batch goes on at weight 0. Scores stay where the shards are: ranking sends
      less than 200 KB of counts per process, whatever the model's size (scope "tensor": less than 1 MiB with up to
      about a thousand tensors). Scope "channel" is refused.
    - Plain parameters with ``group`` are replicas, the same on every process: scores are summed over all loaders'
      batches, by one all-reduce of their n values, and every process selects the same. One without data needs an empty
      loader. Wrapped in ``DistributedDataParallel``, ``loss_fn`` gets the module inside.

    Args:
        model: parameters that require grad take part.
        loader: the data to forget, any iterable of batches; not read by a strategy without a score.
        loss_fn: see :func:`fgunlearn.score`; None for cross entropy.
        strategy: TopK, RandomK or RandomTopK.
        retain_loader: the remaining data, or a sample of it; for the score ``fisher_ratio`` only.
        progress: show a progress bar on a terminal.
        group: the process group that scores and selects together; for DTensors the ranks of their mesh, and needed only
            where the mesh has several dimensions and not all ranks there are.

    Returns:
        The selection; of sharded parameters a :class:`fgunlearn.distributed.ShardedSelection`.

    Raises:
        TypeError, ValueError: what is wrong with which argument, see :func:`fgunlearn.score` and the strategies; over
            several processes on all of them, with the ranks that differ.
    """
    parameters = trainable(model)
    # Above this module:
    from fgunlearn.distributed.processes import processes_of
    from fgunlearn.distributed.selecting import select_over

    processes = processes_of({f"parameter {name!r}": p for name, p in parameters.items()}, group)
    if processes is not None:
        return select_over(model, parameters, loader, loss_fn, strategy, retain_loader, progress, processes)
    if not isinstance(strategy, (TopK, RandomK, RandomTopK)):
        raise TypeError(f"strategy must be a TopK, RandomK or RandomTopK, got {strategy!r}")
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
