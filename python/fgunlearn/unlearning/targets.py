"""What a model that never saw a sample would say about it, as far as held-out data can tell.

A model retrained without the forget data treats it as it treats any data it never saw. What that looks like the model
itself shows on held-out data: so many predictions right, so sure. These targets carry it over to the forget samples,
sample by sample:

- **Which samples are contradicted.** The votes of the remaining data (:mod:`fgunlearn.unlearning.neighbours`) are right
  on a share a_u of the forget samples and on a share a_h of the held-out ones. On a random part of the data the two
  agree. Where a_u is smaller (wrong labels, a whole class), 1 - a_u / a_h of the forget samples, less an error of that
  share, carry labels that the remaining data would not give them: those with the fewest votes for their label. Their
  target is the other classes.
- **Which of the others would be wrong.** As many as the model gets wrong on held-out data: those with the fewest votes
  and the smallest log-odds in the source model, which even where it memorised a sample tell how hard it was.
- **A class that the remaining data lacks** is a contradiction in every sample, and how deep it falls the held-out
  samples of that class show, which fall along. Its row of the last layer is forgotten first
  (:mod:`fgunlearn.unlearning.output_rows`).
- **How sure.** The supported samples get the log-odds, log(p_y / (1 - p_y)), of the held-out samples, quantile by
  quantile: those of the right ones for those expected right, those of the wrong ones for the others. The rest of the
  probability goes to the classes that votes and the source model's other logits favour, half by half.

So a membership attack that compares the likelihoods of forget and unseen samples finds one distribution where the
targets are met. The retain loss pulls samples back, so what a target was missed by is added to the next one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fgunlearn.metrics.outputs import Outputs
from fgunlearn.resuming.file import Contents

_LIMIT = 20.0  # of log-odds: likelihoods from 2e-9 on
_SMOOTHING = 0.02  # of the targets of contradicted samples: one without a doubt would ask for infinite logits
_SHARPENING = 1.5  # exponent of the other classes' shares: one of them is to be the prediction
_NO_VOTE = 1e-3  # what a class without a vote has of one
_UNKNOWN = -6.0  # log-odds that samples of a class which the remaining data lacks are to have at most
_DEPTH = 0.2  # weight of what such samples miss their log-odds by
_FEEDBACK = 0.5  # share of what a sample's log-odds miss that its next target makes up for
_MOST_FEEDBACK = 4.0  # in log-odds


class Targets:
    """Class probabilities for every forget sample: what to train on in order to have never seen them.

    Args:
        source: the source model's outputs on the forget samples, but for what its rows of classes that the remaining
            data lacks say.
        votes: what the remaining data says about them, float (samples, classes) with rows of sum 1.
        heldout_votes: the same of held-out samples, (samples, classes); and
        heldout_labels: their labels, int64 (samples,). Samples of classes that the remaining data lacks say nothing.
        known: bool (classes,), the classes that the remaining data has.

    Raises:
        ValueError: no held-out sample is of a class that the remaining data has.
    """

    def __init__(
        self, source: Outputs, votes: Tensor, heldout_votes: Tensor, heldout_labels: Tensor, known: Tensor
    ) -> None:
        labels = source.labels
        own = _of(votes, labels)
        self._labels = labels
        self._known = known
        comparable = known[heldout_labels]
        if not bool(comparable.any()):
            raise ValueError("heldout_loader has no sample of a class that the remaining data has")
        self.supported_share = _supported_share(votes, labels, heldout_votes[comparable], heldout_labels[comparable])
        by_votes = torch.argsort(own + 1e-9 * source.log_odds, stable=True)
        supported = by_votes[round((1.0 - self.supported_share) * len(labels)) :]
        self._supported = supported[known[labels[supported]]].sort().values
        self._ease = _ranks(own + 1e-9 * source.log_odds) + _ranks(source.log_odds)
        self._hardest_first = torch.argsort(self._ease[self._supported], stable=True)
        self._others = _other_classes(source, votes, known)
        self._feedback = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
        self._log_odds = torch.full_like(self._feedback, torch.nan)
        self._probabilities = self._others * (1.0 - _SMOOTHING) + _SMOOTHING / votes.shape[1]

    def contents(self) -> Contents:
        """All of its state, for a checkpoint."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Contents(tensors, {"supported_share": self.supported_share})

    @classmethod
    def restored(cls, saved: Contents, device: torch.device) -> Targets:
        """What :meth:`contents` told."""
        made = object.__new__(cls)
        made.supported_share = saved.facts["supported_share"]
        for name, value in saved.tensors.items():
            setattr(made, name, value.to(device))
        return made

    def follow(self, heldout: Outputs, forget: Outputs | None = None) -> None:
        """Takes over how right and how sure the model now is on held-out data.

        Args:
            heldout: its outputs there, in the order of ``heldout_labels``.
            forget: its outputs on the forget samples, to make up for what they missed the last targets by; None if
                there were none.
        """
        if forget is not None:
            missed = (self._log_odds - forget.log_odds.clamp(-_LIMIT, _LIMIT)).nan_to_num(0.0)
            self._feedback = (self._feedback + _FEEDBACK * missed).clamp(-_MOST_FEEDBACK, _MOST_FEEDBACK)
        log_odds = heldout.log_odds.clamp(-_LIMIT, _LIMIT)
        comparable = self._known[heldout.labels]
        right = heldout.logits.argmax(1) == heldout.labels
        of_right, of_wrong = log_odds[comparable & right], log_odds[comparable & ~right]
        count = len(self._supported)
        wrong = round(count * len(of_wrong) / (len(of_wrong) + len(of_right)))
        wanted = torch.cat([_spread(of_wrong, wrong), _spread(of_right, count - wrong)])
        self._log_odds[self._supported[self._hardest_first]] = wanted
        for label in torch.unique(self._labels[~self._known[self._labels]]).tolist():
            self._follow_unknown(label, log_odds[heldout.labels == label])
        asked = ~self._log_odds.isnan()
        likelihood = torch.sigmoid((self._log_odds + self._feedback)[asked].clamp(-_LIMIT, _LIMIT))
        mixed = self._others[asked] * (1.0 - likelihood)[:, None]
        self._probabilities[asked] = mixed.scatter(1, self._labels[asked, None], likelihood[:, None])

    def _follow_unknown(self, label: int, unseen: Tensor) -> None:
        """Unseen samples of a class that the remaining data lacks fall with it: the forget samples go as deep."""
        if len(unseen) == 0:
            return
        which = (self._labels == label).nonzero().squeeze(1)
        deepest_first = which[torch.argsort(self._ease[which], stable=True)]
        self._log_odds[deepest_first] = _spread(unseen, len(which)).clamp_max(_UNKNOWN)

    def of(self, chosen: Tensor) -> Tensor:
        """The targets of the chosen samples: float64 (chosen, classes), rows of sum 1."""
        return self._probabilities[chosen]

    def loss(self, logits: Tensor, chosen: Tensor) -> Tensor:
        """The mean cross entropy of the chosen samples' logits (chosen, classes) to their targets.

        Down where unknown classes belong, likelihoods are too small for a cross entropy to tell them apart: for samples
        of such a class the Huber loss of the log-odds is added.
        """
        loss = F.cross_entropy(logits, self.of(chosen).to(logits))
        labels = self._labels[chosen]
        deep = (~self._known[labels] & ~self._log_odds[chosen].isnan()).nonzero().squeeze(1)
        if len(deep):
            own = labels[deep, None]
            others = logits[deep].scatter(1, own, -math.inf).logsumexp(1)
            log_odds = logits[deep].gather(1, own).squeeze(1) - others
            wanted = (self._log_odds + self._feedback)[chosen[deep]].clamp(-_LIMIT, _LIMIT).to(logits)
            loss = loss + _DEPTH * F.smooth_l1_loss(log_odds, wanted, reduction="sum") / len(chosen)
        return loss


def _of(rows: Tensor, labels: Tensor) -> Tensor:
    return rows.double().gather(1, labels[:, None]).squeeze(1)


def _supported_share(votes: Tensor, labels: Tensor, heldout_votes: Tensor, heldout_labels: Tensor) -> float:
    """a_u / a_h and its error upwards, at most 1: in doubt a label is the sample's own.

    The error is made of those of the two shares as if they were normal: the distances to the ends of their intervals
    add up as squares.
    """
    a_u, _, high = _share(votes.argmax(1) == labels)
    a_h, low, _ = _share(heldout_votes.argmax(1) == heldout_labels)
    if a_h == 0.0:  # the votes know nothing: they contradict nobody
        return 1.0
    ratio = a_u / a_h
    return min(1.0, ratio + math.hypot(high - a_u, ratio * (a_h - low)) / a_h)


def _share(right: Tensor) -> tuple[float, float, float]:
    """The share of True, and its score interval of one standard error to either side (E. B. Wilson, JASA 22, 1927).

    Unlike the standard error of the share itself, it does not vanish where all or none of a few samples are right.
    """
    n = len(right)
    share = float(right.double().mean())
    centre = (share + 0.5 / n) / (1.0 + 1.0 / n)
    half = math.sqrt(share * (1.0 - share) / n + 0.25 / n**2) / (1.0 + 1.0 / n)
    return share, centre - half, centre + half


def _ranks(values: Tensor) -> Tensor:
    """Place in ascending order, 0 to n - 1, float64."""
    ranks = torch.empty(len(values), dtype=torch.float64, device=values.device)
    ranks[torch.argsort(values, stable=True)] = torch.arange(len(values), dtype=torch.float64, device=values.device)
    return ranks


def _spread(values: Tensor, count: int) -> Tensor:
    """``count`` quantiles of the values, ascending; none of none."""
    if count == 0:
        return values.new_empty(0)
    places = (torch.arange(count, dtype=values.dtype, device=values.device) + 0.5) / count
    return torch.quantile(values, places)


def _other_classes(source: Outputs, votes: Tensor, known: Tensor) -> Tensor:
    """How the classes other than a sample's own share what is not its likelihood: float64, rows of sum 1.

    A class that the remaining data lacks has nothing, whatever the source model says, unless there is no other.

    Where a retrained model is wrong on a forget sample, the source model's runner-up names its prediction more often
    than the votes do, and both together more often than either.
    """
    own = source.labels[:, None]
    other = torch.ones_like(votes, dtype=torch.bool).scatter(1, own, False)
    known_other = other & known
    left_out = ~torch.where(known_other.any(1, keepdim=True), known_other, other)
    of_source = torch.softmax(source.logits.double().masked_fill(left_out, -torch.inf), 1)
    of_votes = (votes.double() + _NO_VOTE).masked_fill(left_out, 0.0)
    of_votes = of_votes / of_votes.sum(1, keepdim=True)
    shares = ((of_source + of_votes) / 2.0).pow(_SHARPENING)
    return shares / shares.sum(1, keepdim=True)
