"""How far a model is from one retrained without the forget data, estimated without a retrained model.

The average gap (:func:`fgunlearn.metrics.average_gap`) is the mean of four differences to the retrained model M_r:
accuracies on D_u, D_r and D_t, and membership of D_u. Here what M_r would show is estimated instead, from the source
model M_s, held-out data H that no model was trained on, and the votes of each sample's nearest neighbours in D_r
(:mod:`fgunlearn.unlearning.neighbours`): a model that never saw D_u, nor H.

*Do the labels of D_u hold?* Let h be the share of H whose vote is its own label, and a that of D_u. If the labels of
D_u are as right as those of H, a is h but for chance. If only the share q of them is, and the others are wrong ones,

    a = q h + (1 - q) c,   c = (1 - h) / (classes - 1)

for a vote that errs evenly. So q = (a - c) / (h - c) in [0, 1], "adjusted count" of Forman, Quantifying counts and
costs via classification, Data Mining and Knowledge Discovery 17, 2008; q = 1 where a is less than two standard errors
below h. A label that D_r does not have (a forgotten class) is never predicted by M_r; u is the share of those.

*What M_r shows*, with A = max(acc(M_s, H), h), over the samples of H whose class D_r has:

- on H: A. M_s has it, and so has the vote; wrong labels among D_u make M_s worse than the vote.
- on D_r: acc(M_s, D_r).
- on D_u: (1 - u) (q A + (1 - q) (1 - A) / (classes - 1)).
- AUC of D_u against H by the loss: (1 - u) (v - (1 - q) (w - m)+), where v is the AUC of the votes' support for the
  labels, of D_u against H. D_u may be an easy or a hard sample by chance, and the votes see that as M_r does. w and m
  are the AUC of wrong labels against right ones on H itself, by the votes and by M_s: M_r finds wrong labels as surely
  as either of them.

**The criterion**, in points, is 25 times the sum of

    (|acc(M_u, D_u) - expected| - s_acc)+ + (expected - acc(M_u, D_r))+ + (expected - acc(M_u, H))+
    + (|AUC(M_u) - expected| - s_auc)+

Accuracies on D_r and H cost only where they are lower than expected: nobody knows how much better M_r is. s are the
standard errors of the two figures that are judged from both sides, so that chance costs nothing. With n known samples
of D_u, m of H, and the expectations P (accuracy, kept half a sample away from 0 and 1) and V (AUC) of those n:

    s_acc = (1 - u) sqrt(P (1 - P) (1/n + 1/m))
    s_auc = (1 - u) sqrt((V (1 - V) + (n - 1) (V / (2 - V) - V^2) + (m - 1) (2 V^2 / (1 + V) - V^2)) / (n m))

the latter of Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 143, 1982.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fgunlearn.batches import Loader
from fgunlearn.metrics.membership import losses_auc
from fgunlearn.metrics.outputs import Outputs
from fgunlearn.unlearning.neighbours import NeighbourVotes

PARTS = ("forget", "retain", "heldout")
_CHANCE = 2.0  # standard errors below h, from where on labels of D_u count as wrong


@dataclass(frozen=True, eq=False)
class Expected:
    """What a model retrained without D_u should show.

    Attributes:
        forget: accuracy on D_u, in [0, 1].
        retain: accuracy on D_r.
        heldout: accuracy on the held-out samples whose class D_r has.
        membership: AUC of D_u against those held-out samples by the loss; 0.5 is no difference.
        forget_error: standard error of ``forget``.
        membership_error: standard error of ``membership``.
        held: q, the estimated share of the labels of D_u that hold, among those whose class D_r has.
        known: bool (held-out samples,): whose class D_r has.
    """

    forget: float
    retain: float
    heldout: float
    membership: float
    forget_error: float
    membership_error: float
    held: float
    known: Tensor

    @classmethod
    def of(
        cls,
        source: nn.Module,
        forget: Loader,
        retain: Loader,
        heldout: Loader,
        *,
        neighbours: int = 10,
        layer: str | None = None,
    ) -> Expected:
        """From the source model and ``(x, y)`` batches that keep their order when they are read again.

        Args:
            source: M_s.
            forget: D_u.
            retain: D_r.
            heldout: data never trained on.
            neighbours: number of neighbours that vote.
            layer: by whose output they are found; the model's first convolution or linear layer when None.

        Raises:
            ValueError: as :meth:`Outputs.of`; no module of that name; no held-out sample of a class that D_r has.
        """
        seen = {
            part: Outputs.of(source, loader, part)
            for part, loader in zip(PARTS, (forget, retain, heldout), strict=True)
        }
        vote = NeighbourVotes(source, retain, seen["retain"].logits.shape[1], neighbours, layer)
        return cls.from_votes(seen, vote(forget)[0], vote(heldout)[0])

    @classmethod
    def from_votes(cls, source: Mapping[str, Outputs], forget_votes: Tensor, heldout_votes: Tensor) -> Expected:
        """From what the source model says about "forget", "retain" and "heldout", and the votes on two of them.

        Args:
            source: outputs by part.
            forget_votes: float (forget samples, classes), rows of sum 1.
            heldout_votes: float (held-out samples, classes).

        Raises:
            ValueError: no held-out sample of a class that D_r has.
        """
        forget, retain, heldout = (source[part] for part in PARTS)
        classes = torch.unique(retain.labels)
        known = torch.isin(heldout.labels, classes)
        if not bool(known.any()):
            raise ValueError("heldout has no sample of a class that remains: there is nothing to compare with")
        labels, votes = heldout.labels[known], heldout_votes[known]
        agreement = _share(votes.argmax(1) == labels)
        accuracy = max(_share(heldout.logits[known].argmax(1) == labels), agreement)
        asked = torch.isin(forget.labels, classes)
        n, m = int(asked.sum()), len(labels)
        share = n / len(forget)
        if n == 0:
            return cls(0.0, retain.accuracy, accuracy, 0.0, 0.0, 0.0, 0.0, known)
        own = forget.labels[asked]
        held = _held(_share(forget_votes[asked].argmax(1) == own), agreement, n, m, len(classes))
        right = held * accuracy + (1.0 - held) * (1.0 - accuracy) / max(1, len(classes) - 1)
        auc = losses_auc(-_of_label(forget_votes[asked], own), -_of_label(votes, labels))
        if held < 1.0:
            of_source = heldout.logits[known].double().log_softmax(1)
            by_votes, by_source = (_wrong_labels_auc(support, labels, classes) for support in (votes, of_source))
            auc = min(1.0, max(0.0, auc - (1.0 - held) * max(0.0, by_votes - by_source)))
        return cls(
            forget=share * right,
            retain=retain.accuracy,
            heldout=accuracy,
            membership=share * auc,
            forget_error=share * _accuracy_error(right, n, m),
            membership_error=share * _auc_error(auc, n, m),
            held=held,
            known=known,
        )

    def judge(self, seen: Mapping[str, Outputs]) -> Criterion:
        """The criterion of a model, from its outputs on "forget", "retain" and "heldout".

        Args:
            seen: outputs by part, the held-out samples in the order in which ``self`` was made from them.
        """
        heldout = seen["heldout"]
        accuracy = _share((heldout.logits.argmax(1) == heldout.labels)[self.known])
        auc = losses_auc(seen["forget"].losses, heldout.losses[self.known])
        parts = (
            max(0.0, abs(seen["forget"].accuracy - self.forget) - self.forget_error),
            max(0.0, self.retain - seen["retain"].accuracy),
            max(0.0, self.heldout - accuracy),
            max(0.0, abs(auc - self.membership) - self.membership_error),
        )
        return Criterion(100.0 * sum(parts) / len(parts), *(100.0 * part for part in parts))


@dataclass(frozen=True)
class Criterion:
    """An estimate of the average gap and its four parts, in points, so in [0, 100]; 0 is what is aimed at."""

    points: float
    forget: float
    retain: float
    heldout: float
    membership: float


def _held(agreement: float, of_heldout: float, n: int, m: int, classes: int) -> float:
    """q of the module's docstring."""
    # Where every held-out vote is right, the error is not 0: one more sample may have been wrong.
    spread = max(of_heldout * (1.0 - of_heldout), 1.0 / m) * (1.0 / n + 1.0 / m)
    if of_heldout - agreement <= _CHANCE * math.sqrt(spread):
        return 1.0
    chance = (1.0 - of_heldout) / max(1, classes - 1)
    # Votes that know nothing about the held-out data say nothing about D_u.
    return min(1.0, max(0.0, (agreement - chance) / (of_heldout - chance))) if of_heldout > chance else 1.0


def _accuracy_error(accuracy: float, n: int, m: int) -> float:
    kept_off = (m * accuracy + 0.5) / (m + 1.0)
    return math.sqrt(kept_off * (1.0 - kept_off) * (1.0 / n + 1.0 / m))


def _auc_error(auc: float, n: int, m: int) -> float:
    of_members, of_others = auc / (2.0 - auc) - auc**2, 2.0 * auc**2 / (1.0 + auc) - auc**2
    variance = (auc * (1.0 - auc) + (n - 1) * of_members + (m - 1) * of_others) / (n * m)
    return math.sqrt(max(0.0, variance))  # 0 but for rounding at an AUC of 1


def _wrong_labels_auc(support: Tensor, labels: Tensor, classes: Tensor) -> float:
    """AUC of every sample under every wrong label of ``classes`` against every sample under its own.

    Args:
        support: what speaks for each class, (samples, all classes).
        labels: int64 (samples,).
        classes: int64, the labels that there are.
    """
    own = labels[:, None] == classes
    return 0.0 if bool(own.all()) else losses_auc(-support[:, classes][~own], -support[:, classes][own])


def _of_label(scores: Tensor, labels: Tensor) -> Tensor:
    return scores.gather(1, labels[:, None]).squeeze(1)


def _share(right: Tensor) -> float:
    return float(right.double().mean())
