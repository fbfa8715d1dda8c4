"""What a repair is, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from fgunlearn.arguments import check_choice, check_count, check_number
from fgunlearn.unlearning.schedule import Schedule, check_schedule, learning_rate

Forget = Literal["none", "ascent", "unlikelihood", "random_label", "neighbour", "heldout"]


@dataclass(frozen=True, kw_only=True)
class Repair:
    """A few epochs of SGD on the remaining data that update the selected coordinates only.

    Args:
        epochs: passes over the remaining data; a fraction is fine, rounded to whole steps and at least one; 0 for none.
        lr: the largest learning rate.
        momentum: of SGD.
        nesterov: of SGD; only with momentum.
        weight_decay: of SGD, on the selected coordinates only.
        schedule: how lr changes over the steps: "constant"; "linear" to 0; "cosine" to 0; "onecycle", a linear rise
            over the first ``warmup`` of the steps and a linear fall to 0 after it.
        warmup: share of the steps, in [0, 1); "onecycle" only.
        update: "selection" moves the selected coordinates alone; "all" every parameter that requires grad.
        batch_norm: "train" keeps updating the running statistics on the remaining data; "eval" freezes them.
        forget: a term on the forget data beside the retain loss, on logits z and labels y:
            "none"; "ascent", minus the loss; "unlikelihood", -log(1 - p_y), which is bounded where ascent is not;
            "random_label", cross entropy to a class drawn at random among the others; "neighbour", cross entropy to
            what the remaining data says about the sample: the vote of its nearest neighbours (see
            :mod:`fgunlearn.unlearning.neighbours`); "heldout", cross entropy to what a model that never saw the sample
            would say, as far as held-out data tells (see :mod:`fgunlearn.unlearning.targets`): needs a held-out
            loader. Before the perturbation it also makes the selected coordinates of the output rows of classes that
            are forgotten as a whole what the other rows have in common (:mod:`fgunlearn.unlearning.output_rows`).
        weight: of the forget term, > 0.
        forget_share: the term acts for at most this first share of the steps, in [0, 1].
        forget_batch: forget samples per step; None for the loader's own batches.
        stop: with a held-out loader, stop forgetting once the forget data looks like data never trained on
            (:mod:`fgunlearn.unlearning.stopping`). Not for "heldout", whose targets hold samples back as well.
        guided: "unlikelihood" pushes a sample only while p_y exceeds the support its label has among the sample's
            neighbours in the remaining data; without it, forgetting goes far beyond what a retrained model shows.
        neighbours: number of neighbours that vote.
        neighbour_layer: name of the module whose output the neighbours are found by. An early one: later features
            follow the labels, wrong ones included. None for the model's first convolution or linear layer, and for
            "heldout" the one whose neighbours tell most without having memorised the forget data.
        retain_loss: stop the repair at the end of the first epoch whose mean retain loss is at most this; None for all
            epochs.
        seed: of the random labels and the order of the forget samples; any int.
    """

    epochs: float = 2.0
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: Schedule = "onecycle"
    warmup: float = 0.3
    update: Literal["selection", "all"] = "selection"
    batch_norm: Literal["train", "eval"] = "train"
    forget: Forget = "none"
    weight: float = 1.0
    forget_share: float = 1.0
    forget_batch: int | None = None
    stop: bool = True
    guided: bool = True
    neighbours: int = 10
    neighbour_layer: str | None = None
    retain_loss: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice(self.forget, get_args(Forget), "forget")
        check_choice(self.update, ("selection", "all"), "update")
        check_choice(self.batch_norm, ("train", "eval"), "batch_norm")
        check_number(self.epochs, "epochs", low=0.0)
        check_number(self.lr, "lr", low=0.0, above=True)
        check_number(self.momentum, "momentum", low=0.0)
        check_number(self.weight_decay, "weight_decay", low=0.0)
        check_number(self.weight, "weight", low=0.0, above=True)
        check_number(self.forget_share, "forget_share", low=0.0, high=1.0)
        check_schedule(self.schedule, self.warmup)
        check_count(self.neighbours, "neighbours")
        if self.forget_batch is not None:
            check_count(self.forget_batch, "forget_batch")
        if self.retain_loss is not None:
            check_number(self.retain_loss, "retain_loss", low=0.0)

    def learning_rate(self, progress: float) -> float:
        """The learning rate after the share ``progress`` of the steps, in [0, 1)."""
        return learning_rate(self.schedule, self.lr, progress, self.warmup)
