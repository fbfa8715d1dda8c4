"""When enough is forgotten, told without a retrained model.

A model retrained without the forget data meets it as data it never saw. So forgetting has gone far enough when the
model treats the forget data like held-out data: its mean loss there is at least the held-out mean loss. Where the
forget data is not like the held-out data (a whole class, wrong labels), the remaining data says what to expect: if
its neighbours vote for another label than the sample's own, a retrained model is expected to be wrong on the sample
too, and forgetting goes on until the model is right on no more of the forget samples than the votes are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from fgunlearn.batches import Loader, LossFunction, evaluation_mode, known_size, one_pass
from fgunlearn.metrics.accuracy import logits_and_labels


@dataclass
class StopRule:
    """Forgetting is over when ``reached`` says so.

    Args:
        heldout: labelled data that no model was trained on.
        expected_accuracy: the share of forget samples whose own label the remaining data votes for; None when not
            known, and then the mean loss alone decides.
        loss_fn: a loss of the user's, which decides alone; None for cross entropy on ``(x, y)`` batches.
    """

    heldout: Loader
    expected_accuracy: float | None = None
    loss_fn: LossFunction | None = None

    def reached(self, model: nn.Module, forget: Loader) -> bool:
        """Whether the model treats the forget data as it would data never trained on."""
        if self.loss_fn is not None:
            forget_loss = _mean_loss(model, forget, self.loss_fn, "forget_loader")
            return forget_loss >= _mean_loss(model, self.heldout, self.loss_fn, "heldout_loader")
        forget_logits, forget_labels = logits_and_labels(model, forget)
        if self.expected_accuracy is not None:
            right = float((forget_logits.argmax(1) == forget_labels).float().mean())
            # One sample of slack: the votes are an estimate, and a whole number of samples can't meet it exactly.
            if right > self.expected_accuracy + 1.0 / len(forget_labels):
                return False
        heldout_logits, heldout_labels = logits_and_labels(model, self.heldout)
        return float(F.cross_entropy(forget_logits, forget_labels)) >= float(
            F.cross_entropy(heldout_logits, heldout_labels)
        )


@torch.no_grad()
def _mean_loss(model: nn.Module, loader: Loader, loss_fn: LossFunction, argument: str) -> float:
    """Over the samples, in eval mode; batches that do not tell their size count alike."""
    total = samples = 0.0
    with evaluation_mode(model):
        for _, batch in one_pass(loader, argument):
            size = known_size(batch) or 1
            total += size * float(loss_fn(model, batch))
            samples += size
    return total / samples
