"""Forgetting rate and memory retention rate.

Conventions of this project, since the paper's closed forms are not in hand: membership is judged by
:class:`~fgunlearn.metrics.membership.MembershipJudge`, fitted anew for each model on its losses on remaining data
(members) and held-out data (non-members).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

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


def _judged(model: nn.Module, asked: Loader, retain: Loader, heldout: Loader) -> list[bool]:
    judge = MembershipJudge.of(model, retain, heldout)
    return judge.members(sample_losses(model, asked)).tolist()  # type: ignore[no-any-return]


def forgetting_rate(
    source: nn.Module, unlearned: nn.Module, forget: Loader, retain: Loader, heldout: Loader
) -> Forgetting:
    """FR = (AF - BF) / BT, and FR_acc = 1 - acc(unlearned, D_u) / acc(source, D_u).

    BT and BF are the forget samples judged members and non-members on the source model, AF those judged non-members on
    the unlearned one. At most 1 (every member forgotten); 0 when nothing changed; negative when more look like members
    than before; NaN when BT is 0. FR_acc is in (-inf, 1], NaN when the source is right on no forget sample.

    A retrained model does not score 1: held-out samples that it is sure of look like members too. Compare with its value.

    Args:
        source: the model before unlearning.
        unlearned: the model after it; or a retrained one, for the reference.
        forget: D_u, ``(x, y)`` batches in a fixed order.
        retain: D_r.
        heldout: data no model was trained on.
    """
    before = _judged(source, forget, retain, heldout)
    after = _judged(unlearned, forget, retain, heldout)
    members = sum(before)
    others = len(before) - members
    gone = len(after) - sum(after)
    rate = (gone - others) / members if members else float("nan")
    was_right = accuracy(source, forget)
    by_accuracy = 1.0 - accuracy(unlearned, forget) / was_right if was_right else float("nan")
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
    """
    before = _judged(source, retain, retain, heldout)
    after = _judged(unlearned, retain, retain, heldout)
    members = sum(before)
    kept = sum(was and still for was, still in zip(before, after, strict=True))
    was_right = accuracy(source, retain)
    by_accuracy = accuracy(unlearned, retain) / was_right if was_right else float("nan")
    return Forgetting(kept / members if members else float("nan"), by_accuracy, members, len(before) - members, kept)
