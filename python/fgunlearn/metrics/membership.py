"""Membership inference by the loss: does the model treat a sample as one it was trained on?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fgunlearn.batches import Loader
from fgunlearn.metrics.accuracy import sample_losses


@dataclass(frozen=True)
class MembershipJudge:
    """Judges a sample a member when its loss is at most ``threshold`` (Yeom et al., CSF 2018, with a fitted threshold).

    ``balanced_accuracy`` is the mean of the shares judged right among the members and the non-members it was fitted on;
    0.5 is a judge that knows nothing.
    """

    threshold: float
    balanced_accuracy: float

    @classmethod
    def fit(cls, member_losses: Tensor, other_losses: Tensor) -> MembershipJudge:
        """The threshold with the best balanced accuracy, of the losses given; of several, the smallest.

        It may lie anywhere where members and others have losses alike: no threshold is then better than chance.

        Args:
            member_losses: losses of data the model was trained on, float (samples,).
            other_losses: losses of data it never saw, float (samples,).

        Raises:
            ValueError: one of them is empty or holds a NaN.
        """
        _check_losses("member_losses", member_losses)
        _check_losses("other_losses", other_losses)
        other_losses = other_losses.to(member_losses.device)
        members, others = member_losses.double().sort().values, other_losses.double().sort().values
        thresholds = torch.unique(torch.cat([members, others]))
        # Whole numbers, so that a tie is a tie.
        hits = torch.searchsorted(members, thresholds, right=True)
        kept_out = len(others) - torch.searchsorted(others, thresholds, right=True)
        right = hits * len(others) + kept_out * len(members)
        best = int((right == right.max()).nonzero()[0])
        return cls(float(thresholds[best]), int(right[best]) / (2 * len(members) * len(others)))

    @classmethod
    def of(cls, model: nn.Module, members: Loader, others: Loader) -> MembershipJudge:
        """Fitted on this model's losses on members and on data it never saw."""
        return cls.fit(sample_losses(model, members), sample_losses(model, others))

    def members(self, losses: Tensor) -> Tensor:
        """bool (samples,): which samples are judged members."""
        return losses.double() <= self.threshold


def membership_auc(model: nn.Module, loader: Loader, others: Loader) -> float:
    """Chance that a sample of ``loader`` has a smaller loss than one of ``others``, ties counting half, in [0, 1].

    0.5 means that the loss does not tell the two apart. A retrained model scores 0.5 on i.i.d. forget data against test
    data, and less on data that it has reason to find harder (an unseen class, wrong labels): compare with its value.
    """
    return losses_auc(sample_losses(model, loader), sample_losses(model, others))


def losses_auc(asked: Tensor, others: Tensor) -> float:
    """Chance that one of ``asked`` is smaller than one of ``others``, ties counting half: the area under the ROC curve.

    Args:
        asked: losses, float (samples,), of one sample or more.
        others: losses, float (samples,), of one sample or more.

    Raises:
        ValueError: one of them is empty or holds a NaN.
    """
    _check_losses("asked", asked)
    _check_losses("others", others)
    asked, others = asked.double(), others.to(asked.device).double().sort().values
    not_below = torch.searchsorted(others, asked, right=True)
    below = torch.searchsorted(others, asked)
    chances = (len(others) - not_below).double() + 0.5 * (not_below - below).double()
    return float(chances.mean() / len(others))


def _check_losses(argument: str, losses: Tensor) -> None:
    if losses.numel() == 0:
        raise ValueError(f"{argument} is empty")
    if bool(losses.isnan().any()):
        raise ValueError(f"{argument} holds {int(losses.isnan().sum())} NaN")
