"""The unlearning itself: select, perturb, repair, by fgunlearn's parts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fgunlearn as fg
from causal_lm import Place, selection_loss, token_mean_loss, unseen_distance
from fgunlearn.arguments import check_count, check_number
from tokens import Batch, Batches


@dataclass(frozen=True)
class Recipe:
    """How to unlearn.

    Attributes:
        ratio: share of the coordinates that are selected, and so may change.
        score: what they are ranked by, see :func:`fgunlearn.score`.
        shrink: the selected weights are multiplied by this; 1 leaves them.
        epochs: passes of the repair over the retain documents.
        lr: of the repair's AdamW, falling to 0 linearly.
        max_norm: the gradient of the selected coordinates is clipped to this norm.
        forget_weight: of the term that makes the forget documents as surprising as held-out ones; 0 for none.
    """

    ratio: float = 0.3
    score: str = "fisher_ratio"
    shrink: float = 0.8
    epochs: int = 10
    lr: float = 3e-3
    max_norm: float = 1.0
    forget_weight: float = 0.3

    def __post_init__(self) -> None:
        fg.TopK(self.ratio, score=self.score)  # type: ignore[arg-type]
        if self.shrink != 1.0:
            fg.Shrink(self.shrink)
        check_count(self.epochs, "epochs")
        for name in ("lr", "max_norm"):
            check_number(getattr(self, name), name, low=0.0, above=True)
        check_number(self.forget_weight, "forget_weight", low=0.0)


def select(model: nn.Module, forget: Batches, retain: Batches, recipe: Recipe, place: Place) -> fg.Selection:
    """The coordinates that matter most for the forget documents.

    One process streams: beside the model and a backward pass it takes no memory of the model's size, and the answer is
    that of memory="dense", bit for bit. Several processes rank shards, each of which holds its own scores.
    """
    sample = list(itertools.islice(retain, len(forget))) if recipe.score == "fisher_ratio" else None
    return fg.select(
        model,
        list(forget),
        selection_loss,
        fg.TopK(recipe.ratio, score=recipe.score),  # type: ignore[arg-type]
        retain_loader=sample,
        memory="streaming" if place.world == 1 else "dense",
    )


def perturb(model: nn.Module, selection: fg.Selection, recipe: Recipe) -> None:
    """Weakens what the selected weights remember, so that the repair has less to undo."""
    if recipe.shrink < 1.0:
        fg.perturb_(model, selection, fg.Shrink(recipe.shrink))


def repair_optimizer(
    model: nn.Module, selection: fg.Selection, recipe: Recipe, steps: int
) -> tuple[fg.SparseOptimizer, Any]:
    """AdamW on the selected coordinates alone, and its schedule.

    Each gradient is freed during the backward pass, when its selected part is taken: all never exist at once.
    """
    wrapped = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=0.0)
    optimizer = fg.SparseOptimizer(wrapped, selection, model=model, free_grads=True)
    return optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)


class RepairLoss:
    """The loss on retain documents, and beside it the term on the forget documents.

    Args:
        forget: batches of the documents to forget.
        level: the token losses of documents never seen, ascending, which those of the forget documents are led to;
            asked of the model as it is at the time, as the repair changes them as well. None for no term.
        weight: of the term.
        every: steps from one such look to the next.
    """

    def __init__(self, forget: Batches, level: Callable[[nn.Module], Tensor] | None, weight: float, every: int) -> None:
        self._batches: Iterator[Batch] = (batch for _ in itertools.count() for batch in forget)
        self._level_of, self._weight, self._every = level if weight else None, weight, every
        self._level, self._steps = torch.zeros(1), 0

    def __call__(self, model: nn.Module, retain: Batch) -> Tensor:
        """The loss of one step."""
        if self._level_of is not None and self._steps % self._every == 0:
            self._level = self._level_of(model)
        self._steps += 1
        loss = token_mean_loss(model, retain)
        if self._level_of is None:
            return loss
        return loss + self._weight * unseen_distance(model, next(self._batches), self._level)


def repair(model: nn.Module, selection: fg.Selection, retain: Batches, loss_fn: RepairLoss, recipe: Recipe) -> None:
    """A plain training loop over the retain documents, on one process or several."""
    model.train()
    optimizer, schedule = repair_optimizer(model, selection, recipe, recipe.epochs * len(retain))
    with optimizer:
        for _ in range(recipe.epochs):
            for batch in retain:
                loss_fn(model, batch).backward()
                fg.clip_grad_norm_(optimizer, recipe.max_norm)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
    model.eval()


def train(model: nn.Module, batches: Batches, *, epochs: int, lr: float) -> None:
    """Trains all of the model: how the source model of the demonstration, and the retrained one, come to be."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * len(batches), cycle_momentum=False)
    for _ in range(epochs):
        for batch in batches:
            token_mean_loss(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    model.eval()
