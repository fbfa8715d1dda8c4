"""Selecting over several processes: what one process would select of the whole tensors, each its own part of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fgunlearn.batches import Loader, LossFunction, cross_entropy
from fgunlearn.distributed.agreement import agree, raise_together
from fgunlearn.distributed.drawing import random_over
from fgunlearn.distributed.identity import identity
from fgunlearn.distributed.layout import Layout, concatenated, is_dtensor, layout_of, local_part
from fgunlearn.distributed.processes import Processes
from fgunlearn.distributed.ranking import top_over
from fgunlearn.distributed.scoring import refuse_nonfinite_over, scores_over, sums_over
from fgunlearn.distributed.sharded import ShardedSelection
from fgunlearn.selection.channels import channels_of
from fgunlearn.selection.scores import FUSED_KINDS, check_retain_loader, quotient
from fgunlearn.selection.selection import Selection
from fgunlearn.selection.strategies import RandomK, Strategy, TopK, apportion, resolve_k


def select_over(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    loader: Loader,
    loss_fn: LossFunction | None,
    strategy: Strategy,
    retain_loader: Loader | None,
    progress: bool,
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
        shapes = [(tuple(p.shape), getattr(p, "placements", None)) for p in parameters.values()]
        return _facts("select", parameters, shapes, strategy)

    agree(processes, facts)
    k = resolve_k(sum(numels), strategy.k, strategy.ratio)
    loss_fn = cross_entropy if loss_fn is None else loss_fn
    how = (model, parameters, loader, loss_fn)
    if not sharded:
        return _of_replicas(*how, strategy, retain_loader, progress, processes, k)
    layouts = [layout_of(parameter, f"parameter {name!r}") for name, parameter in parameters.items()]
    each = strategy.scope == "tensor"
    indices: list[Tensor] | None = None
    threshold = None
    top = 0 if isinstance(strategy, RandomK) else strategy.top_count(k)
    if strategy.score_kind is not None and top > 0:
        seen = None
        if strategy.score_kind in FUSED_KINDS:
            # As in one process, the sums are ranked before their division.
            sums = sums_over(*how, strategy.score_kind, "loader", progress, processes)
            scores, seen = sums.values, sums.seen
            refuse_nonfinite_over(scores, parameters, processes)
        else:
            scores = scores_over(*how, strategy.score_kind, retain_loader, progress, processes)
        counts = apportion(top, numels) if each else [top]
        labels = [f"the score of {name!r}" for name in parameters]
        indices, threshold = top_over(list(scores.values()), layouts, processes, counts, each, labels)
        if threshold is not None and seen is not None:
            threshold = quotient(threshold, dict(parameters), seen)
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
    loader: Loader,
    loss_fn: LossFunction,
    strategy: Strategy,
    retain_loader: Loader | None,
    progress: bool,
    processes: Processes,
    k: int,
) -> Selection:
    detached = {name: parameter.detach() for name, parameter in parameters.items()}
    channels = channels_of(model) if strategy.scope == "channel" else None
    kind = strategy.score_kind
    if kind is None or strategy.top_count(k) == 0:  # type: ignore[union-attr]
        ranked = {name: tensor.new_zeros(tensor.shape, dtype=torch.float32) for name, tensor in detached.items()}
        selection = strategy.choose(detached, None if kind is None else ranked, channels)
    elif kind in FUSED_KINDS and channels is None:
        sums = sums_over(model, parameters, loader, loss_fn, kind, "loader", progress, processes)
        refuse_nonfinite_over(sums.values, parameters, processes)
        selection = strategy.choose(detached, {name: value.abs_() for name, value in sums.values.items()}, None)
        if selection.threshold is not None:
            threshold = quotient(selection.threshold, dict(parameters), sums.seen)
            selection = selection.with_threshold(threshold)
    else:
        scores = scores_over(model, parameters, loader, loss_fn, kind, retain_loader, progress, processes)
        with torch.no_grad():
            selection = strategy.choose(detached, scores, channels)
    # Sums are the same on all ranks; replicas' parameters, which "saliency" looks at, may have drifted apart.
    found = identity(enumerate(selection.indices)).numpy().tobytes().hex()
    agree(processes, lambda: {"selection (are the replicas' parameters the same?)": found})
    return selection


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
        return _facts(operation, tensors, shapes, (k, ratio, *arguments))

    agree(processes, facts)
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


def _facts(operation: str, tensors: Mapping[str, Tensor], shapes: Any, arguments: Any) -> dict[str, Any]:
    """What all processes must have in common."""
    return {
        "operation": operation,
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
