"""Score, select, perturb, repair."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from fgunlearn.batches import Loader, LossFunction, count_batches, without_samples
from fgunlearn.distributed.agreement import agree, all_succeed
from fgunlearn.distributed.gradients import refuse_unreduced
from fgunlearn.distributed.processes import processes_of
from fgunlearn.parameters import trainable
from fgunlearn.perturb import Ascent, Gaussian, Perturbation, Reset, Shrink, Zero, perturb_
from fgunlearn.resuming import Checkpoint
from fgunlearn.selection import RandomK, RandomTopK, Strategy, TopK, select
from fgunlearn.selection.choose import check_memory
from fgunlearn.selection.strategies import resolve_k
from fgunlearn.selection.streaming import Memory
from fgunlearn.unlearning.changing import changing, timed
from fgunlearn.unlearning.forget_term import ForgetTerm
from fgunlearn.unlearning.loop import repair_
from fgunlearn.unlearning.repair import Repair
from fgunlearn.unlearning.result import Result
from fgunlearn.unlearning.saving import Saving


def unlearn(
    model: nn.Module,
    forget_loader: Loader,
    retain_loader: Loader,
    *,
    loss_fn: LossFunction | None = None,
    strategy: Strategy,
    perturb: Perturbation | None = None,
    repair: Repair | None = None,
    heldout_loader: Loader | None = None,
    progress: bool = False,
    memory: Memory = "dense",
    memory_budget: int | None = None,
    checkpoint: Checkpoint | None = None,
) -> Result:
    """Removes the influence of the forget data from the model, in place, approximately.

    Scores the coordinates on the forget data, selects by ``strategy``, perturbs the selected ones, and repairs them on
    the remaining data. Off the selection no parameter changes by a bit (unless ``repair.update`` is "all"). After an
    error or Ctrl-C the model is back as it was. How far the removal went is for :mod:`fgunlearn.metrics` to say: this
    is evidence, not proof.

    A model whose parameters are DTensors (FSDP2) is unlearned by all processes of its mesh together, each with its own
    part of the forget data and of the remaining data, as many batches of these on every one; losses in the record are
    means over processes. There ``repair.forget`` can't be guided by neighbours, nor "heldout", nor stopped by held-out
    data. An error of one process in the middle of a pass (in the model, ``loss_fn`` or a loader) is one of the others
    as soon as its process ends or the group's timeout has passed; every process's part of the model is back as it was.

    Args:
        model: parameters that require grad take part.
        forget_loader: the data to forget, an iterable of batches that can be read more than once; held in memory while
            a forget term runs.
        retain_loader: the remaining data, likewise. The score ``fisher_ratio`` reads its first batches, as many as
            ``forget_loader`` has, so let it shuffle.
        loss_fn: ``loss_fn(model, batch) -> scalar``, the mean over the batch; cross entropy on ``(x, y)`` by default.
        strategy: TopK, RandomK or RandomTopK.
        perturb: Gaussian, Reset, Shrink, Zero or Ascent; None for no perturbation.
        repair: see :class:`Repair`; its defaults when None.
        heldout_loader: data never trained on, in batches like the others, for the rule that stops forgetting and for
            the forget term "heldout", which holds it in memory; not read by a repair without a forget term, nor with
            ``stop=False`` by another one.
        progress: show progress bars on a terminal.
        memory: how scores are held, see :func:`fgunlearn.select`; "streaming" chooses the coordinates of "dense". It is
            about scoring alone: each backward pass of the repair has all gradients.
        memory_budget: for "streaming", see :func:`fgunlearn.select`.
        checkpoint: where to keep the state of the repair every so many steps, and to go on from if it is there, see
            :class:`fgunlearn.Checkpoint`; None for nowhere. Not for DTensors.

    Raises:
        TypeError, ValueError: what is wrong with which argument; an empty loader; a repair that diverged; a checkpoint
            that is damaged or of another call.
        OSError: a checkpoint that can't be read or written; the model is back as it was.
    """
    return run(
        model,
        forget_loader,
        retain_loader,
        Options(strategy, perturb, Repair() if repair is None else repair),
        loss_fn=loss_fn,
        heldout_loader=heldout_loader,
        progress=progress,
        memory=memory,
        memory_budget=memory_budget,
        checkpoint=checkpoint,
    )


@dataclass(frozen=True)
class Options:
    """The options of :func:`unlearn` that say what is done."""

    strategy: Strategy
    perturb: Perturbation | None
    repair: Repair


def run(
    model: nn.Module,
    forget_loader: Loader,
    retain_loader: Loader,
    options: Options,
    *,
    loss_fn: LossFunction | None,
    heldout_loader: Loader | None,
    progress: bool,
    memory: Memory,
    memory_budget: int | None,
    checkpoint: Checkpoint | None,
    choose: Callable[[Sequence[Any]], Options] | None = None,
) -> Result:
    """:func:`unlearn`, where ``choose`` may say from the batches of D_u, and from what it reads, what is done.

    A call that goes on from a checkpoint chooses again, from the same random numbers. ``options`` are checked before
    data is read, and so are those that are chosen.
    """
    parameters = trainable(model)
    processes = processes_of({f"parameter {name!r}": p for name, p in parameters.items()})
    forget_batches: list[Any] = []

    def checked() -> dict[str, Any]:
        nonlocal options
        _check(model, options, memory, memory_budget)
        steps = count_batches(retain_loader, "retain_loader")
        forget_batches.extend(forget_loader)
        if not forget_batches:
            raise ValueError("forget_loader is empty: there is nothing to forget")
        if all(without_samples(batch) for batch in forget_batches):
            raise ValueError("forget_loader has no sample: there is nothing to forget")
        if choose is not None:
            options = choose(forget_batches)
            _check(model, options, memory, memory_budget)
        if processes is not None:
            _refuse_for_shards(options.repair, heldout_loader, checkpoint)
            refuse_unreduced(model)
        return {
            **{field.name: getattr(options, field.name) for field in fields(options)},
            "memory": (memory, memory_budget),
            "number of retain batches": steps,
        }

    saving = None
    device = next(iter(parameters.values())).device
    seconds: dict[str, float] = {}
    if processes is not None:
        agree(processes, "fgunlearn.unlearn", checked)
    elif checkpoint is None:
        checked()
    else:
        saving = Saving(checkpoint, model, forget_loader, retain_loader, heldout_loader)
        with saving.checking():
            steps = checked()["number of retain batches"]
            saving.agree(
                options.strategy,
                options.perturb,
                options.repair,
                loss_fn,
                (memory, memory_budget),
                forget_batches,
                steps,
            )
            if saving.found is not None:
                selection, seconds = saving.found.selection(device), saving.found.seconds
    strategy, perturb, repair = options.strategy, options.perturb, options.repair
    saved = None if saving is None else saving.found
    begins = saved is None
    if begins:
        with timed(seconds, "select", device):
            sample = None
            if strategy.score_kind is not None:
                sample = list(itertools.islice(retain_loader, len(forget_batches)))
            selection = select(
                model,
                forget_batches,
                loss_fn,
                strategy,
                retain_loader=sample,
                progress=progress,
                memory=memory,
                memory_budget=memory_budget,
            )
        del sample
    with contextlib.ExitStack() as stack:
        if saving is not None:
            stack.enter_context(saving.until_done())
        result = stack.enter_context(changing(model, selection, everything=repair.update == "all"))
        result.seconds.update(seconds)
        forget = None
        if repair.forget != "none" and repair.epochs > 0:
            spent = result.seconds if begins else {}
            with timed(spent, "forget setup", device), all_succeed(processes, "prepare its forget term"):
                forget = ForgetTerm(
                    model,
                    selection,
                    forget_batches,
                    retain_loader,
                    heldout_loader,
                    loss_fn,
                    repair,
                    resumable=saving is not None,
                    saved=None if saved is None else saved.forget,
                )
        saved = None  # which may be as large as the model
        if perturb is not None and begins:
            with timed(result.seconds, "perturb", device):
                perturb_(model, selection, perturb, loader=forget_batches, loss_fn=loss_fn)
        with timed(result.seconds, "repair", device):
            if saving is not None:
                saving.seconds = dict(result.seconds)
            result.record = repair_(model, selection, forget, retain_loader, loss_fn, repair, progress, saving)
        if saving is not None:
            result.seconds["repair"] += saving.correction
    return result


def _check(model: nn.Module, options: Options, memory: Memory, memory_budget: int | None) -> None:
    check_options(model, options.strategy, options.perturb, options.repair)
    check_memory(memory, memory_budget, options.strategy)


def _refuse_for_shards(repair: Repair, heldout_loader: Loader | None, checkpoint: Checkpoint | None) -> None:
    if checkpoint is not None:
        raise ValueError(
            "checkpoint is for a model in one process, and the parameters are DTensors: save the unlearned model with "
            "torch.distributed.checkpoint; a SparseOptimizer in a loop of your own goes with it as "
            "fgunlearn.distributed.checkpoint.OptimizerState"
        )
    if repair.forget == "none":
        return
    why = "and the parameters are DTensors, which only a forward pass of all processes gathers: use"
    neighbours = f"forget={repair.forget!r} looks for neighbours by one layer's output, {why}"
    if repair.forget in ("neighbour", "heldout"):
        raise ValueError(f"{neighbours} forget='unlikelihood' with guided=False, or another forget term")
    if repair.guided and repair.forget == "unlikelihood":
        raise ValueError(f"{neighbours} guided=False")
    if repair.stop and heldout_loader is not None:
        raise ValueError(f"stop=True looks at heldout_loader by itself, {why} stop=False, or no heldout_loader")


def check_options(model: nn.Module, strategy: object, perturb: object, repair: object) -> dict[str, nn.Parameter]:
    """What can be told of the options without data; returns the parameters that take part.

    Raises:
        TypeError, ValueError: argument and value are named.
    """
    if not isinstance(strategy, (TopK, RandomK, RandomTopK)):
        raise TypeError(f"strategy must be a TopK, RandomK or RandomTopK, got {strategy!r}")
    if perturb is not None and not isinstance(perturb, (Gaussian, Reset, Shrink, Zero, Ascent)):
        raise TypeError(f"perturb must be a Gaussian, Reset, Shrink, Zero, Ascent or None, got {perturb!r}")
    if not isinstance(repair, Repair):
        raise TypeError(f"repair must be a Repair, got {repair!r}")
    parameters = trainable(model)
    resolve_k(sum(p.numel() for p in parameters.values()), strategy.k, strategy.ratio)
    return parameters
