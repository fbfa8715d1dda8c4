"""Gradients of sharded parameters: one backward pass that all processes take together, each on its own batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fgunlearn.batches import Loader, LossFunction, batch_size, checked_loss, with_last
from fgunlearn.distributed.agreement import raise_together
from fgunlearn.distributed.layout import local_part
from fgunlearn.distributed.processes import Processes
from fgunlearn.progress import track


def sharded_gradients(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    loader: Loader,
    loss_fn: LossFunction,
    kind: str,
    argument: str,
    progress: bool,
    processes: Processes,
) -> Iterator[tuple[int, list[Tensor | None]]]:
    """Per step the number of samples of all processes, and this process's parts of the gradient of their mean loss.

    A step is one batch on every process; together they are what one batch is to a single process. A process whose
    loader ends before the others' takes part with its last batch, at weight 0. ``.grad`` is afterwards as before.

    Args:
        model: see :func:`fgunlearn.score`.
        parameters: its trainable ones, DTensors.
        loader: this process's batches.
        loss_fn: see :func:`fgunlearn.score`.
        kind: shown beside the progress bar.
        argument: the loader's name in errors.
        progress: show a bar on rank 0's terminal.
        processes: all of which call this.

    Raises:
        ValueError: a loader without samples: every process has to take part in every backward pass.
        RuntimeError: another process's loader failed.
    """
    ours = track(loader, f"score ({kind})", progress and processes.rank == 0)
    batches = with_last(_with_samples(ours))
    batch: Any = None
    size, ended = 0, False
    first = True
    while True:
        error: Exception | None = None
        try:
            if not ended:
                (batch, size), ended = next(batches, ((None, 0), True))
            else:
                size = 0
        except Exception as raised:
            error = raised
        state = processes.gather(torch.tensor([size, ended, error is not None]))
        if bool(state[:, 2].any()):
            raise_together(processes, error, f"read {argument}")
        sizes = state[:, 0].tolist()
        if first and 0 in sizes:
            raise ValueError(
                f"{argument} is empty on rank {sizes.index(0)}: with sharded parameters every process takes part in "
                "every backward pass, so each needs a batch"
            )
        total = sum(sizes)
        if total == 0:
            return
        first = False
        yield total, _backward(model, parameters, batch, loss_fn, size * len(sizes) / total)
        if bool(state[:, 1].all()):
            return


def _with_samples(loader: Loader) -> Iterator[tuple[Any, int]]:
    return ((batch, size) for batch, size in ((batch, batch_size(batch)) for batch in loader) if size > 0)


def _backward(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], batch: Any, loss_fn: LossFunction, weight: float
) -> list[Tensor | None]:
    """This process's parts of the gradients; ``weight`` makes the mean over processes one over samples."""
    # Only backward() reaches sharded parameters: FSDP2 computes with others, gathered, and puts the gradient here.
    kept = [parameter.grad for parameter in parameters.values()]
    for parameter in parameters.values():
        parameter.grad = None
    try:
        with torch.enable_grad():
            loss = checked_loss(loss_fn(model, batch))
            (loss if weight == 1.0 else loss * weight).backward()
        del loss
        return [_part(parameter) for parameter in parameters.values()]
    finally:
        for parameter, grad in zip(parameters.values(), kept, strict=True):
            parameter.grad = grad


def _part(parameter: Any) -> Tensor | None:
    grad: Any = parameter.grad
    if grad is None:
        return None
    if tuple(grad.placements) != tuple(parameter.placements):
        grad = grad.redistribute(placements=parameter.placements)
    return local_part(grad)
