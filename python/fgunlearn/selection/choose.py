"""From a model and the data to forget to a selection."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor, nn

from fgunlearn.arguments import check_choice, check_count
from fgunlearn.batches import Loader, LossFunction, cross_entropy
from fgunlearn.parameters import trainable
from fgunlearn.scoring import FUSED_KINDS
from fgunlearn.selection.channels import channels_of
from fgunlearn.selection.compact import top_compact
from fgunlearn.selection.readings import Source
from fgunlearn.selection.scores import check_retain_loader, quotient, score, top_scores
from fgunlearn.selection.selection import Selection
from fgunlearn.selection.strategies import RandomK, RandomTopK, Strategy, TopK, apportion, resolve_k
from fgunlearn.selection.streaming import Memory, check_loaders, top_streaming


def select(
    model: nn.Module,
    loader: Loader,
    loss_fn: LossFunction | None,
    strategy: Strategy,
    *,
    retain_loader: Loader | None = None,
    progress: bool = False,
    memory: Memory = "dense",
    memory_budget: int | None = None,
    group: Any = None,
) -> Selection:
    r"""Scores the model on the data to forget as the strategy asks, and selects.

    By "grad", "abs_grad" and "fisher" the last batch's accumulation selects as well, without another read of the
    scores. What is ranked there is the sum before its division by the number of samples, so the selection is that by
    :func:`fgunlearn.score` save where the division rounds two different sums to one score: the larger sum wins. Scope
    "channel" reads the scores themselves, once more.

    With n coordinates, ``memory`` is what that takes beside the model and the backward pass:

    ========= ==========================================================================
    dense     all gradients and 4 n bytes of scores (8 n for ``fisher_ratio``); the data
              is read once
    streaming nothing of size n: the largest gradient, the coordinates around the
              threshold (at most a quarter of ``memory_budget``) and the selection. One
              batch takes P backward passes; more batches, and ``fisher_ratio``, also
              ``memory_budget`` bytes of sums and P times G readings of the data
    compact   2 n bytes of sums in bfloat16 (4 n for ``fisher_ratio``) and the largest
              gradient; the data is read once. Not the same answer: see below
    ========= ==========================================================================

    **Streaming** gives the answer of "dense", bit for bit, by going through the scores again and again. P is 2 where
    scores are spread: one pass counts, one collects what the counts left in doubt. It is 3 where the quarter of the
    budget does not hold those that share their leading 16 bits with the k-th (13 on CUDA), and more only where more
    bits are shared, up to the very same score, such as 0: then up to 5 on the CPU, 7 on CUDA or with float64, 9 with
    both, for n < 2\ :sup:`32`. Scope "tensor" takes P = 1. G is the number of groups of parameters whose sums fit
    ``memory_budget``: about 4 n / ``memory_budget`` (by default near 8 with bfloat16, 4 with float32), twice that for
    ``fisher_ratio``, which reads ``retain_loader`` G times more. Where one group holds all (``memory_budget`` >=
    4 n) its sums are kept: one reading. Backward passes compute only what a group needs. One more reading begins, to
    see whether there is more than one batch.

    The data must be the same each time it is read, in the same batches: no shuffling, no random augmentation. The
    gradients of a parameter must not depend on which others are computed with them, which holds for torch's layers.

    **Compact** rounds each running sum to bfloat16, by 2\ :sup:`-8` at most: after B batches, sums are off by at most
    (1 + 2\ :sup:`-8`)\ :sup:`B` - 1 of the sum of their terms' magnitudes (0.4% for B = 1, 4% for 10, 48% for 100; for
    "grad", whose terms cancel, that may be more than the sum itself). What came out is ranked exactly; scores that
    differ by less than those errors may change places.

    Over several processes (``torch.distributed``), all of which have to call this, each one's loader is its own part of
    the data. The processes first make sure that they are about the same: operation, model (names, shapes, dtypes),
    strategy, and memory.

    - Sharded parameters (DTensors, as FSDP2 makes them) are selected over their whole mesh, with or without ``group``.
      One batch of every process together are one batch: each process's loss is weighted by its batch's size, so that
      their mean gradient is one over samples; that is what is made positive by "abs_grad" and "fisher", for it is all
      that a backward pass over shards gives. So every loader needs a batch; where one ends early, its last batch goes
      on at weight 0. Scores stay where the shards are: ranking sends less than 200 KB of counts per process, whatever
      the model's size, with "streaming" less than 1 MiB. Scope "tensor" sends less than 1 MiB with up to 700
      parameters (450 if one of them is float64), with more at most 1.5 KB for each (2.3 KB). Scope "channel" is
      refused, and so are FSDP2 modules that don't reduce their gradients (``set_requires_gradient_sync(False)``), or
      that use a parameter in several reentrant checkpoints. n is what a process holds; "streaming" divides it into
      groups alike on all, by the largest part that one holds of each tensor. There P is 2, or with many equal scores
      up to 7 with float32 and 9 with float64, and every pass is a full one: FSDP2 computes all gradients or none. Those
      of one of its modules come together.
      What fails in one rank's ``loader`` is an error of all. What fails in its ``loss_fn`` is not: the others are in
      the middle of a pass that needs it, and wait until that rank's process ends or the group's timeout
      (``init_process_group(timeout=...)``) has passed.
    - Plain parameters with ``group`` are replicas, the same on every process: scores are summed over all loaders'
      batches, by one all-reduce of their n values, and every process selects the same. One without data needs an empty
      loader. Wrapped in ``DistributedDataParallel``, ``loss_fn`` gets the module inside. With "streaming" the n values
      are reduced in each reading, group by group, as no score is known before; one batch takes groups there as well,
      because processes that waited for each other at every gradient would have to take the same way through the model.
      With "compact", sums are rounded once more as they are reduced.

    Args:
        model: parameters that require grad take part.
        loader: the data to forget, any iterable of batches; not read by a strategy without a score.
        loss_fn: see :func:`fgunlearn.score`; None for cross entropy.
        strategy: TopK, RandomK or RandomTopK.
        retain_loader: the remaining data, or a sample of it; for the score ``fisher_ratio`` only.
        progress: show a progress bar on a terminal.
        memory: "dense", "streaming" or "compact". Scope "channel" needs "dense".
        memory_budget: for "streaming", how many bytes the sums of a group of parameters may take on each process. A
            tensor is never divided, so that a larger one is a group of its own. If None, a quarter of the bytes of the
            parameters (of the process that holds most of them), and 256 MiB at the least.
        group: the process group that scores and selects together; for DTensors of the ranks of their mesh, and not
            needed.

    Returns:
        The selection; of sharded parameters a :class:`fgunlearn.distributed.ShardedSelection`.

    Raises:
        TypeError, ValueError: what is wrong with which argument, see :func:`fgunlearn.score` and the strategies; with
            "streaming" also a loader that can be read only once, such as a generator. Over several processes on all of
            them, with the ranks that differ.
        RuntimeError: with "streaming", gradients that changed from one reading to the next by so much that it shows in
            the counts. Where it doesn't, the answer is exact for the last reading.
    """
    # Above this module:
    from fgunlearn.distributed.agreement import errors_told
    from fgunlearn.distributed.processes import processes_of
    from fgunlearn.distributed.selecting import select_over

    with errors_told(group, model, "fgunlearn.select"):
        parameters = trainable(model)
        processes = processes_of({f"parameter {name!r}": p for name, p in parameters.items()}, group)

    def checked() -> None:
        if not isinstance(strategy, (TopK, RandomK, RandomTopK)):
            raise TypeError(f"strategy must be a TopK, RandomK or RandomTopK, got {strategy!r}")
        check_memory(memory, memory_budget, strategy)

    if processes is not None:
        given = (model, parameters, loader, loss_fn, strategy, retain_loader, progress, memory, memory_budget)
        return select_over(*given, checked, processes)
    checked()
    numels = [p.numel() for p in parameters.values()]
    k = resolve_k(sum(numels), strategy.k, strategy.ratio)  # refused before the work
    detached = {name: p.detach() for name, p in parameters.items()}
    channels = channels_of(model) if strategy.scope == "channel" else None
    if isinstance(strategy, RandomK) or strategy.score_kind is None:
        return strategy.choose(detached, None, channels)
    top = strategy.top_count(k)
    kind, loss_fn = strategy.score_kind, loss_fn or cross_entropy
    if memory == "dense" and (kind not in FUSED_KINDS or top == 0 or channels is not None):
        scores = score(model, loader, loss_fn, kind, retain_loader, progress)
        with torch.no_grad():
            return strategy.choose(detached, scores, channels)
    each = strategy.scope == "tensor"
    counts = apportion(top, numels) if each else [top]
    indices: list[Tensor]
    threshold: float | None
    if memory == "dense":
        indices, thresholds, seen = top_scores(model, parameters, loader, loss_fn, kind, counts, each, progress)
        threshold = None if each else float(thresholds)
    else:
        check_retain_loader(kind, retain_loader)
        if memory == "streaming":
            check_loaders(loader, retain_loader if kind == "fisher_ratio" else None)
        source = Source(model, parameters, loader, loss_fn, kind, retain_loader, progress)
        if memory == "compact":
            indices, threshold, seen = top_compact(source, counts, each)
        else:
            indices, threshold, seen = top_streaming(source, counts, each, memory_budget)
    if isinstance(strategy, RandomTopK) and top == 0:
        threshold = None  # nothing was ranked
    if threshold is not None and kind in FUSED_KINDS:
        threshold = quotient(threshold, parameters, seen)
    return strategy.complete(detached, indices, threshold)


def check_memory(memory: Memory, memory_budget: int | None, strategy: Strategy) -> None:
    """Refuses a way to hold scores that the strategy can't use.

    Args:
        memory: see :func:`select`.
        memory_budget: see :func:`select`.
        strategy: see :func:`select`.

    Raises:
        TypeError, ValueError: argument and value are named.
    """
    check_choice(memory, get_args(Memory), "memory")
    if memory != "dense" and strategy.scope == "channel" and strategy.score_kind is not None:
        raise ValueError(
            f"scope='channel' adds up scores that memory={memory!r} does not hold: use memory='dense' with it"
        )
    if memory_budget is None:
        return
    if memory != "streaming":
        raise ValueError(f"memory_budget is for memory='streaming', got {memory_budget} with memory={memory!r}")
    check_count(memory_budget, "memory_budget")
