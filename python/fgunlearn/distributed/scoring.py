"""Scores over several processes: of sharded parameters, and of replicas that have a part of the data each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fgunlearn import ops
from fgunlearn.batches import Loader, LossFunction, batch_size, evaluation_mode
from fgunlearn.distributed.agreement import raise_together
from fgunlearn.distributed.gradients import sharded_gradients, sharded_steps
from fgunlearn.distributed.layout import is_dtensor, layout_of, local_part
from fgunlearn.distributed.processes import Processes, processes_of


@dataclass
class Sums:
    """Sums over batches of g, abs(g) or g^2, weighted by the batches' sizes, of all processes together.

    Attributes:
        values: by parameter name this process's part; float32, or float64 of float64 parameters.
        seen: the number of samples.
    """

    values: dict[str, Tensor]
    seen: int


def scores_over(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    loader: Loader,
    loss_fn: LossFunction,
    kind: str,
    retain_loader: Loader | None,
    progress: bool,
    processes: Processes,
) -> dict[str, Tensor]:
    """What :func:`fgunlearn.score` says, of the loaders of all processes together: this process's parts.

    Args and errors: see :func:`sums_over` and :func:`fgunlearn.score`.
    """
    from fgunlearn.selection.scores import ACCUMULATED, damping

    accumulated = ACCUMULATED[kind]
    scores = _means(sums_over(model, parameters, loader, loss_fn, accumulated, "loader", progress, processes))
    if kind == "fisher_ratio":
        assert retain_loader is not None
        retain = _means(
            sums_over(model, parameters, retain_loader, loss_fn, "fisher", "retain_loader", progress, processes)
        )
        n = sum(parameter.numel() for parameter in parameters.values())
        held = [float(t.sum(dtype=torch.float64)) for t in counted(retain, parameters).values()]
        total = torch.tensor([sum(held)], dtype=torch.float64)
        if any(is_dtensor(parameter) for parameter in parameters.values()):
            total = processes.sum(total)
        eps = damping([float(total)], n)
        for name, kept in retain.items():
            scores[name].div_(kept.add_(eps))
    with torch.no_grad():
        for name, values in scores.items():
            if kind == "saliency":
                values.mul_(local_part(parameters[name]))
            if kind in ("grad", "saliency"):
                values.abs_()
    refuse_nonfinite_over(scores, parameters, processes)
    return scores


def refuse_nonfinite_over(
    scores: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], processes: Processes
) -> None:
    """Raises, on all processes, a ValueError that names the first parameter with a NaN or infinite score."""
    from fgunlearn.selection.scores import nonfinite

    # The sums of replicas are the same everywhere; the parameters that "saliency" multiplies them by may not be.
    counts = processes.gather(torch.tensor(nonfinite_counts(scores, parameters))).amax(0).tolist()
    for (name, parameter), count in zip(parameters.items(), counts, strict=True):
        if count:
            raise nonfinite(name, parameter.numel(), count)


def nonfinite_counts(parts: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> list[int]:
    """Per parameter the number of NaN and infinite values in what belongs to it, of all processes if it is a DTensor.

    Args:
        parts: by parameter name, this process's part.
        parameters: the parameters.
    """
    counts = ops.count_nonfinite(list(counted(parts, parameters).values()))
    processes = processes_of(parameters)
    found: list[int] = (counts if processes is None else processes.sum(counts)).tolist()
    return found


def counted(parts: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts, empty where another process counts the same part."""
    return {name: part if layout_of(parameters[name]).first else part.new_empty(0) for name, part in parts.items()}


def _means(sums: Sums) -> dict[str, Tensor]:
    for value in sums.values.values():
        value.div_(sums.seen)
    return sums.values


def sums_over(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    loader: Loader,
    loss_fn: LossFunction,
    kind: str,
    argument: str,
    progress: bool,
    processes: Processes,
) -> Sums:
    """The sums of one score over the loaders of all processes; the model is in eval mode meanwhile.

    Args:
        model: see :func:`fgunlearn.score`.
        parameters: its trainable ones, all DTensors or all plain and the same on every process.
        loader: this process's part of the data.
        loss_fn: see :func:`fgunlearn.score`.
        kind: "grad", "abs_grad" or "fisher".
        argument: the loader's name in errors.
        progress: show a progress bar.
        processes: all of which call this.

    Raises:
        ValueError: no data; sharded parameters need some on every process, replicas on one.
        RuntimeError: another process failed.
    """
    if isinstance(model, DistributedDataParallel):
        model = model.module  # whose backward pass and buffers wait for nobody
    with evaluation_mode(model):
        if any(is_dtensor(parameter) for parameter in parameters.values()):
            return _of_shards(model, parameters, loader, loss_fn, kind, argument, progress, processes)
        return _of_replicas(model, parameters, loader, loss_fn, kind, argument, progress, processes)


def _of_shards(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    loader: Loader,
    loss_fn: LossFunction,
    kind: str,
    argument: str,
    progress: bool,
    processes: Processes,
) -> Sums:
    sums = Sums(_zeros(parameters), 0)
    for step in sharded_steps(model, loader, f"score ({kind})", argument, progress, processes):
        gradients = sharded_gradients(model, parameters, step, loss_fn)
        reached = [(s, g) for s, g in zip(sums.values.values(), gradients, strict=True) if g is not None]
        ops.score_accumulate_([s for s, _ in reached], [g for _, g in reached], kind, float(step.size))
        sums.seen += step.size
        del gradients, reached
    return sums


def _of_replicas(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    loader: Loader,
    loss_fn: LossFunction,
    kind: str,
    argument: str,
    progress: bool,
    processes: Processes,
) -> Sums:
    from fgunlearn.selection.scores import accumulate_sums

    sums = Sums(_zeros(parameters), 0)
    error: Exception | None = None
    try:
        # Batches without samples are no data either: some of them alone must not be an error of one rank.
        batches = itertools.dropwhile(lambda batch: batch_size(batch) == 0, loader)
        for batch in itertools.islice(batches, 1):  # a rank without data adds nothing
            everything = itertools.chain([batch], batches)
            sums.values, sums.seen = accumulate_sums(
                model, dict(parameters), everything, loss_fn, kind, argument, progress and processes.rank == 0
            )
    except Exception as raised:
        error = raised
    raise_together(processes, error, "score its part of the data")
    sums.seen = int(processes.sum(torch.tensor([sums.seen])))
    if sums.seen == 0:
        raise ValueError(f"{argument} is empty on every rank: there is no data to take gradients on")
    for value in sums.values.values():
        value.copy_(processes.sum(value))
    return sums


def _zeros(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    zeros = {}
    for name, parameter in parameters.items():
        part = local_part(parameter)
        dtype = torch.float64 if part.dtype == torch.float64 else torch.float32
        zeros[name] = torch.zeros(part.shape, dtype=dtype, device=part.device)
    return zeros
