"""Forgetting rate and memory retention rate.

Conventions of this project, since the paper's closed forms are not in hand: membership is judged by
:class:`~fgunlearn.metrics.membership.MembershipJudge`, fitted anew for each model on its losses on remaining data
(members) and held-out data (non-members).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fgunlearn.batches import Loader
from fgunlearn.metrics.accuracy import accuracy, sample_losses
from fgunlearn.metrics.membership import MembershipJudge


@dataclass(frozen=True)
class Forgetting:
    """A rate, and what it was made from.

    Attributes:
        rate: the membership form.
        rate_accuracy: the accuracy form.
        members_before: samples judged members on the source model (BT for FR).
        others_before: samples judged non-members on the source model (BF for FR).
        counted_after: FR: non-members on the unlearned model (AF); MRR: members before and still members.
    """

    rate: float
    rate_accuracy: float
    members_before: int
    others_before: int
    counted_after: int


def _judged(model: nn.Module, asked: Loader, retain: Loader, heldout: Loader) -> Tensor:
    judge = MembershipJudge.of(model, retain, heldout)
    return judge.members(sample_losses(model, asked))


def forgetting_rate(
    source: nn.Module, unlearned: nn.Module, forget: Loader, retain: Loader, heldout: Loader
) -> Forgetting:
    """FR = (AF - BF) / BT, and FR_acc = 1 - acc(unlearned, D_u) / acc(source, D_u).

    BT and BF are the forget samples judged members and non-members on the source model, AF those judged non-members on
    the unlearned one. At most 1 (every member forgotten); 0 when nothing changed; negative when more look like members
    than before; NaN when BT is 0. FR_acc is in (-inf, 1], NaN when the source is right on no forget sample.

    A retrained model does not score 1: held-out samples that it is sure of look like members too. Compare with its
    value.

    Args:
        source: the model before unlearning.
        unlearned: the model after it; or a retrained one, for the reference.
        forget: D_u, ``(x, y)`` batches in a fixed order.
        retain: D_r.
        heldout: data no model was trained on.

    Raises:
        TypeError, ValueError: batches that are not ``(x, y)``, an empty loader, outputs that are not logits or give a
            loss of NaN, labels that are not class numbers.
    """
    return forgetting_of(
        _judged(source, forget, retain, heldout),
        _judged(unlearned, forget, retain, heldout),
        accuracy(source, forget),
        accuracy(unlearned, forget),
    )


def forgetting_of(before: Tensor, after: Tensor, accuracy_before: float, accuracy_after: float) -> Forgetting:
    """:func:`forgetting_rate` from what is known already.

    Args:
        before: bool (samples,), which forget samples are judged members on the source model.
        after: the same on the unlearned model.
        accuracy_before: of the source model on the forget data.
        accuracy_after: of the unlearned model.

    Raises:
        TypeError: judgements that are not bool.
        ValueError: judgements of other shapes, or of no sample.
    """
    _check(before, after)
    members, others, gone = int(before.sum()), int((~before).sum()), int((~after).sum())
    rate = (gone - others) / members if members else math.nan
    by_accuracy = 1.0 - accuracy_after / accuracy_before if accuracy_before else math.nan
    return Forgetting(rate, by_accuracy, members, others, gone)


def memory_retention_rate(source: nn.Module, unlearned: nn.Module, retain: Loader, heldout: Loader) -> Forgetting:
    """MRR, the share of remaining samples judged members on the source that still are, and the accuracy form.

    MRR is in [0, 1], NaN when the source has no member; MRR_acc = acc(unlearned, D_r) / acc(source, D_r). A retrained
    model was trained on D_r as well and scores near the value of two independent trainings, below 1: the judge errs.

    Args:
        source: the model before unlearning.
        unlearned: the model after it.
        retain: D_r, ``(x, y)`` batches in a fixed order.
        heldout: data no model was trained on.

    Raises:
        TypeError, ValueError: as :func:`forgetting_rate`.
    """
    return retention_of(
        _judged(source, retain, retain, heldout),
        _judged(unlearned, retain, retain, heldout),
        accuracy(source, retain),
        accuracy(unlearned, retain),
    )


def retention_of(before: Tensor, after: Tensor, accuracy_before: float, accuracy_after: float) -> Forgetting:
    """:func:`memory_retention_rate` from what is known already; as :func:`forgetting_of`, on D_r."""
    _check(before, after)
    members, others, kept = int(before.sum()), int((~before).sum()), int((before & after.to(before.device)).sum())
    by_accuracy = accuracy_after / accuracy_before if accuracy_before else math.nan
    return Forgetting(kept / members if members else math.nan, by_accuracy, members, others, kept)


def _check(before: Tensor, after: Tensor) -> None:
    for argument, judged in (("before", before), ("after", after)):
        if judged.dtype != torch.bool:  # of integers ~ and & say something else
            raise TypeError(f"{argument} must be bool, got {judged.dtype}")
    if before.dim() != 1 or len(before) == 0:
        raise ValueError(f"before must be of shape (samples,) with one sample or more, got {tuple(before.shape)}")
    if after.shape != before.shape:
        raise ValueError(f"after must be of the shape of before, {tuple(before.shape)}, got {tuple(after.shape)}")
