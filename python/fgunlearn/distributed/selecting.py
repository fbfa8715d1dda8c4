"""Selecting over several processes: what one process would select of the whole tensors, each its own part of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fgunlearn.batches import Loader, LossFunction, cross_entropy, evaluation_mode
from fgunlearn.distributed.agreement import agree, raise_together
from fgunlearn.distributed.drawing import random_over
from fgunlearn.distributed.identity import identity
from fgunlearn.distributed.layout import Layout, concatenated, is_dtensor, layout_of, local_part
from fgunlearn.distributed.processes import Processes
from fgunlearn.distributed.ranking import top_over
from fgunlearn.distributed.scoring import refuse_nonfinite_over, scores_over, sums_over
from fgunlearn.distributed.sharded import ShardedSelection
from fgunlearn.distributed.sources import ReplicaSource, ShardedSource
from fgunlearn.distributed.streaming import top_streaming_over
from fgunlearn.scoring import FUSED_KINDS
from fgunlearn.selection.channels import channels_of
from fgunlearn.selection.compact import compact_scores, top_of
from fgunlearn.selection.scores import check_retain_loader, quotient
from fgunlearn.selection.selection import Selection
from fgunlearn.selection.strategies import RandomK, Strategy, TopK, apportion, resolve_k
from fgunlearn.selection.streaming import Memory, check_loaders


def select_over(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    loader: Loader,
    loss_fn: LossFunction | None,
    strategy: Strategy,
    retain_loader: Loader | None,
    progress: bool,
    memory: Memory,
    memory_budget: int | None,
    check: Callable[[], object],
    processes: Processes,
) -> Selection:
    """:func:`fgunlearn.select` of a model that several processes hold; ``check`` looks at the arguments.

    Returns:
        A :class:`ShardedSelection` of sharded parameters; of replicas the same ordinary selection everywhere.

    Raises:
        ValueError: the processes' models or strategies differ, or what one of them is given is wrong; on all of them.
    """
    sharded = any(is_dtensor(parameter) for parameter in parameters.values())
    numels = [parameter.numel() for parameter in parameters.values()]

    def facts() -> dict[str, Any]:
        check()
        resolve_k(sum(numels), strategy.k, strategy.ratio)
        if sharded:
            _refuse_channels(strategy.scope)
        if strategy.score_kind is not None:
            check_retain_loader(strategy.score_kind, retain_loader)
            if memory == "streaming":
                check_loaders(loader, retain_loader if strategy.score_kind == "fisher_ratio" else None)
        shapes = [(tuple(p.shape), getattr(p, "placements", None)) for p in parameters.values()]
        return {**_facts(parameters, shapes, strategy), "memory": (memory, memory_budget)}

    agree(processes, "fgunlearn.select", facts)
    k = resolve_k(sum(numels), strategy.k, strategy.ratio)
    loss_fn = cross_entropy if loss_fn is None else loss_fn
    source = None
    if (kind := strategy.score_kind) is not None:
        inside = model.module if isinstance(model, DistributedDataParallel) else model
        scored = (inside, dict(parameters), loader, loss_fn, kind, retain_loader, progress, processes)
        source = ShardedSource(*scored) if sharded else ReplicaSource(*scored)
    if not sharded:
        return _of_replicas(model, parameters, source, strategy, k, memory, memory_budget, processes)
    layouts = [layout_of(parameter, f"parameter {name!r}") for name, parameter in parameters.items()]
    each = strategy.scope == "tensor"
    indices: list[Tensor] | None = None
    threshold = None
    top = 0 if isinstance(strategy, RandomK) else strategy.top_count(k)
    if source is not None and top > 0:
        counts = apportion(top, numels) if each else [top]
        indices, threshold = _top(source, counts, each, memory, memory_budget)
    seed = None if isinstance(strategy, TopK) else strategy.seed
    if seed is not None:
        indices = random_over(layouts, k - top, seed, each, processes, indices)
    if indices is None:  # Top-K of nothing
        indices, threshold = random_over(layouts, 0, 0, False, processes), None if each else math.inf
    return ShardedSelection.of_parts(
        layouts, indices, processes, names=list(parameters), threshold=threshold, seed=seed
    )


def _of_replicas(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    source: ShardedSource | ReplicaSource | None,
    strategy: Strategy,
    k: int,
    memory: Memory,
    memory_budget: int | None,
    processes: Processes,
) -> Selection:
    detached = {name: parameter.detach() for name, parameter in parameters.items()}
    channels = channels_of(model) if strategy.scope == "channel" else None
    if source is None or isinstance(strategy, RandomK):
        selection = strategy.choose(detached, None, channels)
    elif (top := strategy.top_count(k)) == 0:
        nothing = {name: tensor.new_zeros(tensor.shape, dtype=torch.float32) for name, tensor in detached.items()}
        selection = strategy.choose(detached, nothing, channels)
    elif channels is not None:
        scores = scores_over(*_scored(source), source.kind, source.retain_loader, source.progress, processes)
        selection = strategy.choose(detached, scores, channels)
    else:
        each = strategy.scope == "tensor"
        counts = apportion(top, source.numels) if each else [top]
        selection = strategy.complete(detached, *_top(source, counts, each, memory, memory_budget))
    # Sums are the same on all ranks; replicas' parameters, which "saliency" looks at, may have drifted apart.
    found = identity(enumerate(selection.indices)).numpy().tobytes().hex()
    same = "selection (are the replicas' parameters the same?)"
    agree(processes, "fgunlearn.select", lambda: {same: found})
    return selection


def _top(
    source: ShardedSource | ReplicaSource,
    counts: Sequence[int],
    each: bool,
    memory: Memory,
    memory_budget: int | None,
) -> tuple[list[Tensor], float | None]:
    """The top coordinates of what this process has of the parameters, and the threshold; None with ``each``."""
    processes, seen = source.processes, None
    if memory == "streaming":
        indices, threshold, seen = top_streaming_over(source, counts, each, memory_budget)
    else:
        if memory == "compact":
            with torch.no_grad(), evaluation_mode(source.model):
                scores, seen = compact_scores(source)
            refuse_nonfinite_over(scores, source.parameters, processes)
        elif source.kind in FUSED_KINDS:
            # As in one process, the sums are ranked before their division.
            sums = sums_over(*_scored(source), source.kind, "loader", source.progress, processes)
            scores, seen = sums.values, sums.seen
            refuse_nonfinite_over(scores, source.parameters, processes)
        else:
            scores = scores_over(*_scored(source), source.kind, source.retain_loader, source.progress, processes)
        if isinstance(source, ShardedSource):
            labels = [f"the score of {name!r}" for name in scores]
            indices, threshold = top_over(list(scores.values()), source.layouts, processes, counts, each, labels)
        else:
            indices, threshold = top_of(scores, counts, each)
    if threshold is not None and source.kind in FUSED_KINDS:
        assert seen is not None
        threshold = quotient(threshold, source.parameters, seen)
    return indices, threshold


def _scored(source: ShardedSource | ReplicaSource) -> tuple[nn.Module, dict[str, nn.Parameter], Loader, LossFunction]:
    return source.model, source.parameters, source.loader, source.loss_fn


def topk_over(
    tensors: Mapping[str, Tensor],
    k: int | None,
    ratio: float | None,
    scope: str,
    check: Callable[[], None],
    processes: Processes,
) -> ShardedSelection:
    """:func:`fgunlearn.topk` over several processes; ``check`` looks at the arguments."""
    layouts, count = _prepared("topk", tensors, k, ratio, (scope,), check, processes)
    labels = [f"tensor number {t}" for t in tensors]
    each = scope == "tensor"
    counts = apportion(count, [layout.numel for layout in layouts]) if each else [count]
    parts = [local_part(tensor) for tensor in tensors.values()]
    indices, threshold = top_over(parts, layouts, processes, counts, each, labels)
    return ShardedSelection.of_parts(layouts, indices, processes, threshold=threshold)


def randomk_over(
    tensors: Mapping[str, Tensor],
    k: int | None,
    ratio: float | None,
    seed: int,
    scope: str,
    check: Callable[[], None],
    processes: Processes,
) -> ShardedSelection:
    """:func:`fgunlearn.randomk` over several processes; ``check`` looks at the arguments."""
    layouts, count = _prepared("randomk", tensors, k, ratio, (scope, seed), check, processes)
    indices = random_over(layouts, count, seed, scope == "tensor", processes)
    return ShardedSelection.of_parts(layouts, indices, processes, seed=seed)


def _prepared(
    operation: str,
    tensors: Mapping[str, Tensor],
    k: int | None,
    ratio: float | None,
    arguments: tuple[Any, ...],
    check: Callable[[], None],
    processes: Processes,
) -> tuple[list[Layout], int]:
    """The layouts of this process's parts, and k."""

    def facts() -> dict[str, Any]:
        check()
        _refuse_channels(arguments[0])
        for name, tensor in tensors.items():
            if not is_dtensor(tensor) and tensor.dim() == 0:
                raise ValueError(
                    f"tensor {name!r} has no dimension along which it could be one of several ranks' parts"
                )
        shapes = [  # a plain tensor is a part, of any length
            (tuple(tensor.shape), layout_of(tensor, f"tensor {name!r}").placements)
            if is_dtensor(tensor)
            else tuple(tensor.shape)[1:]
            for name, tensor in tensors.items()
        ]
        return _facts(tensors, shapes, (k, ratio, *arguments))

    agree(processes, f"fgunlearn.{operation}", facts)
    if any(is_dtensor(tensor) for tensor in tensors.values()):
        layouts = [layout_of(tensor, f"tensor {name!r}") for name, tensor in tensors.items()]
    else:
        rows = processes.gather(torch.tensor([tensor.shape[0] for tensor in tensors.values()], dtype=torch.int64))
        layouts = [
            concatenated(tensor.shape, rows[:, t].tolist(), processes.rank) for t, tensor in enumerate(tensors.values())
        ]
    error: Exception | None = None
    count = 0
    try:
        count = resolve_k(sum(layout.numel for layout in layouts), k, ratio)
    except ValueError as raised:
        error = raised
    raise_together(processes, error, operation)
    return layouts, count


def _facts(tensors: Mapping[str, Tensor], shapes: Any, arguments: Any) -> dict[str, Any]:
    """What all processes must have in common."""
    return {
        "names": list(tensors),
        "shapes": shapes,
        "dtypes": [tensor.dtype for tensor in tensors.values()],
        "strategy": arguments,
    }


def _refuse_channels(scope: str) -> None:
    if scope == "channel":
        raise ValueError(
            "scope='channel' needs whole channels, and of sharded tensors a process has parts: use 'global' or 'tensor'"
        )
