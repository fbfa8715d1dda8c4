"""The repair: SGD on the remaining data over the selected coordinates, beside it for a while a forget term."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from fgunlearn.batches import (
    Loader,
    LossFunction,
    batch_size,
    checked_loss,
    class_count,
    count_batches,
    cross_entropy,
    device_of,
    one_tensor,
    x_and_y,
)
from fgunlearn.distributed.processes import Processes, processes_of
from fgunlearn.optim import SparseOptimizer
from fgunlearn.parameters import trainable
from fgunlearn.progress import bar
from fgunlearn.selection.selection import Selection
from fgunlearn.unlearning.neighbours import neighbour_votes
from fgunlearn.unlearning.repair import Repair
from fgunlearn.unlearning.result import DivergedError, Record, check_finite
from fgunlearn.unlearning.stopping import StopRule

_SUPPORT_SLACK = 0.02  # a likelihood this little above the neighbours' support is not pushed further

_VOTE_SMOOTHING = 0.02


def repair_(
    model: nn.Module,
    selection: Selection,
    forget: ForgetTerm | None,
    retain_loader: Loader,
    loss_fn: LossFunction | None,
    repair: Repair,
    progress: bool = False,
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
    total = round(repair.epochs * per_epoch)
    record = Record()
    retain_loss = forget_loss = 0.0
    forgetting_in_epoch = 0
    with bar(progress) as display:
        task = display.add_task("repair", total=total)
        for step, batch in enumerate(_cycle(retain_loader, total)):
            for group in optimizer.param_groups:
                group["lr"] = repair.learning_rate((step + 0.5) / total)
            active = forget is not None and not record.stopped_forgetting and step < repair.forget_share * total
            if active:
                assert forget is not None
                kept, gone, samples = forget.losses(model, batch)
                loss = kept + repair.weight * gone
            else:
                kept = loss = checked_loss((loss_fn or cross_entropy)(model, batch))
                gone, samples = None, batch_size(batch)
            losses = _means_over(
                processes, [float(part.detach()) for part in (loss, kept, kept if gone is None else gone)]
            )
            if not math.isfinite(losses[0]):
                raise DivergedError(
                    f"the repair diverged: the loss is {losses[0]} at step {step}; lower lr ({repair.lr}) "
                    f"or weight ({repair.weight})"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

            record.steps += 1
            record.samples += samples
            retain_loss += losses[1]
            if gone is not None:
                record.forget_steps += 1
                forgetting_in_epoch += 1
                forget_loss += losses[2]
                assert forget is not None
                record.stopped_forgetting = forget.is_over(model, record.forget_steps)
            display.advance(task)
            in_epoch = step % per_epoch + 1
            if in_epoch == per_epoch or step + 1 == total:
                record.history.append(
                    {
                        "epoch": len(record.history) + 1,
                        "retain_loss": retain_loss / in_epoch,
                        "forget_loss": forget_loss / forgetting_in_epoch if forgetting_in_epoch else None,
                        "learning_rate": optimizer.param_groups[0]["lr"],
                    }
                )
                back = repair.retain_loss is not None and retain_loss / in_epoch <= repair.retain_loss
                retain_loss = forget_loss = 0.0
                forgetting_in_epoch = 0
                if back:
                    break
    check_finite(parameters, f"lower lr ({repair.lr}) or weight ({repair.weight})")
    return record


def _means_over(processes: Processes | None, values: list[float]) -> list[float]:
    """The values' means over processes: what one of them decides by, all do."""
    if processes is None:
        return values
    return (processes.sum(torch.tensor(values, dtype=torch.float64)) / processes.size).tolist()


def _cycle(loader: Loader, steps: int) -> Iterator[Any]:
    taken = 0
    while taken < steps:
        before = taken
        for batch in loader:
            if taken == steps:
                return
            taken += 1
            yield batch
        if taken == before:
            raise ValueError("retain_loader gave no batch when it was read again")


class ForgetTerm:
    """The loss on the forget data beside the retain loss, and when to stop adding it.

    With the default loss, one forward pass serves both: the forget samples go through the model in one batch with the
    retain samples, so that batch norm sees the mixture it was trained on. A ``loss_fn`` of the user's gets a pass of
    its own, and only "ascent" is defined for it.
    """

    def __init__(
        self,
        model: nn.Module,
        forget_batches: Iterable[Any],
        retain_loader: Loader,
        heldout_loader: Loader | None,
        loss_fn: LossFunction | None,
        repair: Repair,
    ) -> None:
        self._kind = repair.forget
        self._loss_fn = loss_fn
        self._batches = list(forget_batches)
        self._generator = torch.Generator().manual_seed(repair.seed)
        self._order: list[int] = []
        self._stop: StopRule | None = None
        self._votes: Tensor | None = None
        self._checked = 0
        if loss_fn is not None:
            if repair.forget != "ascent":
                raise ValueError(
                    f"forget={repair.forget!r} is defined on logits and class labels: use it with loss_fn=None and "
                    "(x, y) batches, or use forget='ascent'"
                )
            return
        pairs = [x_and_y(batch) for batch in self._batches]
        self._device = device_of(model)
        self._x = torch.cat([x for x, _ in pairs]).to(self._device)
        self._y = torch.cat([y for _, y in pairs]).to(self._device)
        self._size = min(repair.forget_batch or len(pairs[0][1]), len(self._y))
        expected = None
        guided = repair.guided and repair.forget == "unlikelihood"
        if guided or repair.forget == "neighbour" or (repair.stop and heldout_loader is not None):
            classes = class_count(model, pairs[0][0])
            votes, labels = neighbour_votes(model, retain_loader, classes, repair.neighbours, repair.neighbour_layer)(
                pairs
            )
            expected = float((votes.argmax(1) == labels).float().mean())
            self._votes = votes
        self._guided = guided
        if repair.stop and heldout_loader is not None:
            self._stop = StopRule(heldout_loader, expected)

    def losses(self, model: nn.Module, retain_batch: Any) -> tuple[Tensor, Tensor, int]:
        """The retain loss, the forget loss, and how many samples they took."""
        if self._loss_fn is not None:
            batch = self._batches[self._next(1, len(self._batches))[0]]
            kept = checked_loss(self._loss_fn(model, retain_batch))
            return kept, -checked_loss(self._loss_fn(model, batch)), batch_size(retain_batch) + batch_size(batch)
        x, y = (part.to(self._device) for part in x_and_y(retain_batch))
        chosen = torch.tensor(self._next(self._size, len(self._y)), device=self._device)
        logits = one_tensor(model(torch.cat([x, self._x[chosen]])))
        kept = checked_loss(F.cross_entropy(logits[: len(y)], y))
        return kept, self._on_logits(logits[len(y) :], chosen), len(y) + len(chosen)

    def _next(self, count: int, of: int) -> list[int]:
        if len(self._order) < count:
            self._order = torch.randperm(of, generator=self._generator).tolist()
        taken, self._order = self._order[:count], self._order[count:]
        return taken

    def _on_logits(self, logits: Tensor, chosen: Tensor) -> Tensor:
        labels = self._y[chosen]
        if self._kind == "ascent":
            return -F.cross_entropy(logits, labels)
        if self._kind == "unlikelihood":
            # log(1 - p_y) from the other classes' logits: exact where p_y rounds to 1.
            others = logits.scatter(1, labels[:, None], -math.inf)
            unlikelihood = logits.logsumexp(1) - others.logsumexp(1)
            if self._guided:
                assert self._votes is not None
                support = self._votes[chosen].to(logits).gather(1, labels[:, None]).squeeze(1)
                likelihood = -torch.expm1(-unlikelihood.detach())  # p_y
                unlikelihood = unlikelihood * (likelihood > support + _SUPPORT_SLACK)
            return unlikelihood.mean()
        if self._kind == "random_label":
            classes = logits.shape[1]
            shift = torch.randint(1, max(classes, 2), labels.shape, generator=self._generator)
            return F.cross_entropy(logits, (labels + shift.to(labels.device)) % classes)
        assert self._votes is not None
        # Never fully sure: a vote of 10 to 0 would ask for infinite logits.
        return F.cross_entropy(logits, self._votes[chosen].to(logits), label_smoothing=_VOTE_SMOOTHING)

    def is_over(self, model: nn.Module, forget_steps: int) -> bool:
        """Whether to stop forgetting; looks once per pass over the forget data."""
        if self._stop is None or forget_steps * self._size < (self._checked + 1) * len(self._y):
            return False
        self._checked += 1
        return self._stop.reached(model, [(self._x, self._y)])
