"""The repair: SGD on the remaining data over the selected coordinates, beside it for a while a forget term."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fgunlearn.batches import (
    Loader,
    LossFunction,
    checked_loss,
    count_batches,
    cross_entropy,
    known_size,
    one_pass,
    without_samples,
)
from fgunlearn.distributed.processes import Processes, processes_of
from fgunlearn.optim import SparseOptimizer
from fgunlearn.parameters import trainable
from fgunlearn.progress import bar
from fgunlearn.selection.selection import Selection
from fgunlearn.unlearning.forget_term import ForgetTerm
from fgunlearn.unlearning.repair import Repair
from fgunlearn.unlearning.result import DivergedError, Progress, Record, check_finite
from fgunlearn.unlearning.saving import Saving


def repair_(
    model: nn.Module,
    selection: Selection,
    forget: ForgetTerm | None,
    retain_loader: Loader,
    loss_fn: LossFunction | None,
    repair: Repair,
    progress: bool = False,
    saving: Saving | None = None,
) -> Record:
    """Runs the repair on the model in place, in train mode; the caller restores modes."""
    parameters = trainable(model)
    processes = processes_of(parameters)
    sgd = torch.optim.SGD(
        parameters.values(),
        lr=repair.lr,
        momentum=repair.momentum,
        nesterov=repair.nesterov and repair.momentum > 0,
        weight_decay=repair.weight_decay,
    )
    optimizer = SparseOptimizer(sgd, selection) if repair.update == "selection" else sgd
    model.train()
    if repair.batch_norm == "eval":
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
    per_epoch = count_batches(retain_loader, "retain_loader")
    total = max(round(repair.epochs * per_epoch), int(repair.epochs > 0))
    done = Progress()
    batches: Iterable[Any] = retain_loader
    rest: Iterable[Any] = ()  # of a pass that was interrupted
    if saving is not None:
        done = saving.begin(selection, optimizer, total)
        batches, rest = saving.batches()
    record = done.record
    with bar(progress) as display:
        task = display.add_task("repair", total=total, completed=record.steps)
        for step, batch in enumerate(_cycle(batches, total, rest, record.steps), record.steps):
            for group in optimizer.param_groups:
                group["lr"] = repair.learning_rate((step + 0.5) / total)
            active = forget is not None and not record.stopped_forgetting and step < repair.forget_share * total
            if active:
                assert forget is not None
                kept, gone, samples = forget.losses(model, batch)
                loss = kept + repair.weight * gone
            else:
                kept = loss = checked_loss((loss_fn or cross_entropy)(model, batch))
                gone, samples = None, known_size(batch) or 0
            losses = _means_over(
                processes, [float(part.detach()) for part in (loss, kept, kept if gone is None else gone)]
            )
            if not math.isfinite(losses[0]):
                advice = f"lower lr ({repair.lr}) or weight ({repair.weight})"
                if step == 0:
                    advice = "no update came before: look at the perturbation, the model, the data and the loss"
                raise DivergedError(f"the repair diverged: the loss is {losses[0]} at step {step}; {advice}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

            record.steps += 1
            record.samples += samples
            done.retain_loss += losses[1]
            if gone is not None:
                record.forget_steps += 1
                done.forgetting += 1
                done.forget_loss += losses[2]
                assert forget is not None
                record.stopped_forgetting = forget.is_over(model, record.forget_steps)
            display.advance(task)
            in_epoch = step % per_epoch + 1
            if in_epoch == per_epoch or step + 1 == total:
                record.history.append(
                    {
                        "epoch": len(record.history) + 1,
                        "retain_loss": done.retain_loss / in_epoch,
                        "forget_loss": done.forget_loss / done.forgetting if done.forgetting else None,
                        "learning_rate": optimizer.param_groups[0]["lr"],
                    }
                )
                back = repair.retain_loss is not None and done.retain_loss / in_epoch <= repair.retain_loss
                done.retain_loss = done.forget_loss = 0.0
                done.forgetting = 0
                if back:
                    break
            if saving is not None and step + 1 < total:
                saving.after_step(done, forget)
    check_finite(parameters, f"lower lr ({repair.lr}) or weight ({repair.weight})")
    return record


def _means_over(processes: Processes | None, values: list[float]) -> list[float]:
    """The values' means over processes: what one of them decides by, all do."""
    if processes is None:
        return values
    return (processes.sum(torch.tensor(values, dtype=torch.float64)) / processes.size).tolist()


def _cycle(loader: Loader, steps: int, rest: Iterable[Any], taken: int) -> Iterator[Any]:
    """Batches for ``steps`` steps, of which ``taken`` are done: first the rest of a pass, then pass after pass."""
    for batch in rest:
        if taken == steps:
            return
        if without_samples(batch):
            continue
        taken += 1
        yield batch
    while taken < steps:  # a loader with fewer batches than its length is read once more: there are as many steps
        for _, batch in one_pass(loader, "retain_loader"):
            if taken == steps:
                return
            taken += 1
            yield batch
