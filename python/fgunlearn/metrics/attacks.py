"""Membership inference on one model: are the asked samples told from samples that it never saw?"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fgunlearn.batches import Loader
from fgunlearn.metrics.bootstrap import Interval, check_draws
from fgunlearn.metrics.logistic import LogisticRegression
from fgunlearn.metrics.membership import MembershipJudge
from fgunlearn.metrics.outputs import Outputs
from fgunlearn.metrics.roc_curve import roc_intervals

_SCORES: dict[str, Callable[[Outputs], Tensor]] = {
    "loss": lambda outputs: -outputs.losses,
    "confidence": lambda outputs: outputs.confidence,
    "entropy": lambda outputs: -outputs.entropy,
    "modified_entropy": lambda outputs: -outputs.modified_entropy,
}

ATTACKS: tuple[str, ...] = (*_SCORES, "logistic")
"""The attacks that :func:`mia` knows."""


@dataclass(frozen=True)
class Attack:
    """What one attack found.

    Attributes:
        name: of the attack.
        auc: chance that a forget sample scores above a never-seen one, ties counting half, with its 95% interval.
        tpr: share of the forget samples caught at a false positive rate of at most 1%, with its 95% interval.
        accuracy: mean of the shares judged right among the forget samples (as members) and the never-seen ones, by a
            threshold that was fitted without either; None where there is none.
        member_share: share of the forget samples that this threshold judges members; None where there is none.
            Arbitrary where the attack knows nothing of the samples that its threshold was fitted on: it may then lie
            anywhere (see :func:`fgunlearn.metrics.non_member_share`).
        forget_scores: per forget sample, float64 (samples,), higher for what looks like a member.
        other_scores: per never-seen sample.
    """

    name: str
    auc: Interval
    tpr: Interval
    accuracy: float | None
    member_share: float | None
    forget_scores: Tensor = field(repr=False, compare=False)
    other_scores: Tensor = field(repr=False, compare=False)


def mia(
    model: nn.Module,
    forget_loader: Loader,
    test_loader: Loader,
    *,
    retain_loader: Loader | None = None,
    heldout_loader: Loader | None = None,
    attacks: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Attack]:
    """The attack suite on one model: AUC and TPR at 1% FPR, in [0, 1], with 95% bootstrap intervals.

    Scores, higher for what looks like a member (p the predicted probabilities, y the label):

    - loss: log p_y (Yeom et al., CSF 2018).
    - confidence: p_y. It ranks samples as the loss does, so AUC and TPR are the same but for ties at 1.
    - entropy: sum_i p_i log p_i (Salem et al., NDSS 2019).
    - modified_entropy: (1 - p_y) log p_y + sum_{i != y} p_i log(1 - p_i) (Song & Mittal, USENIX Security 2021), with
      one threshold for all classes.
    - logistic: the log odds of a logistic regression of all four and log(p_y / (1 - p_y)), fitted on this model's
      outputs on retain data (members) and held-out data (others).

    A retrained model scores an AUC of 0.5 and a TPR of 0.01 where forget and test data are i.i.d., and less where it
    has reason to find the forget data harder (an unseen class, wrong labels): compare with its value. An AUC well below
    0.5 gives the forget data away as well: something was done to it. A model that memorised scores up to 1.

    Args:
        model: the model attacked.
        forget_loader: D_u, ``(x, y)`` batches.
        test_loader: data like D_u that the model never saw.
        retain_loader: D_r, which the model was trained on; with heldout_loader, what is fitted is fitted on these two:
            the logistic attack, and the thresholds of ``accuracy`` and ``member_share``.
        heldout_loader: data that the model never saw, none of it in test_loader.
        attacks: names, of those above; None for all that can be run.
        resamples: bootstrap draws.
        seed: of the draws.

    Returns:
        One :class:`Attack` for each name, in the order of ``attacks``.

    Raises:
        TypeError: batches that are not ``(x, y)``, resamples or a seed that is no int.
        ValueError: an unknown attack; "logistic", or one of retain_loader and heldout_loader, without both; an empty
            loader; a model that doesn't return logits, or returns NaN; resamples < 1.
    """
    if (retain_loader is None) != (heldout_loader is None):
        raise ValueError("retain_loader and heldout_loader must be given together")
    _names(attacks, retain_loader is not None)  # before the passes over the data, as the draws
    check_draws(resamples, seed)
    return mia_of(
        Outputs.of(model, forget_loader, "forget_loader"),
        Outputs.of(model, test_loader, "test_loader"),
        retain=None if retain_loader is None else Outputs.of(model, retain_loader, "retain_loader"),
        heldout=None if heldout_loader is None else Outputs.of(model, heldout_loader, "heldout_loader"),
        attacks=attacks,
        resamples=resamples,
        seed=seed,
    )


def mia_of(
    forget: Outputs,
    test: Outputs,
    *,
    retain: Outputs | None = None,
    heldout: Outputs | None = None,
    attacks: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Attack]:
    """:func:`mia` from what the model says about every part, known already."""
    if (retain is None) != (heldout is None):
        raise ValueError("retain and heldout must be given together")
    names = _names(attacks, retain is not None)
    check_draws(resamples, seed)
    score = {name: _score_of(name, retain, heldout) for name in names}
    of_forget = [score[name](forget).cpu() for name in names]
    of_test = [score[name](test).cpu() for name in names]
    thresholds: list[float | None] = [None] * len(names)
    if retain is not None and heldout is not None:
        thresholds = [-MembershipJudge.fit(-score[name](retain), -score[name](heldout)).threshold for name in names]
    intervals = roc_intervals(of_forget, of_test, resamples=resamples, seed=seed)
    parts = zip(names, of_forget, of_test, thresholds, intervals, strict=True)
    return {name: _judged(name, forgot, never, limit, *found) for name, forgot, never, limit, found in parts}


def attack_of(
    name: str,
    forget_scores: Tensor,
    test_scores: Tensor,
    threshold: float | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Attack:
    """What an attack found, from its scores.

    Args:
        name: of the attack.
        forget_scores: float (samples,), higher for what looks like a member.
        test_scores: the same of never-seen samples.
        threshold: a sample that reaches it is judged a member; None to judge none.
        resamples: bootstrap draws.
        seed: of the draws.

    Raises:
        TypeError: resamples or a seed that is no int.
        ValueError: empty scores, NaN, resamples < 1.
    """
    [found] = roc_intervals([forget_scores], [test_scores], resamples=resamples, seed=seed)
    return _judged(name, forget_scores, test_scores, threshold, *found)


def _judged(name: str, forget: Tensor, test: Tensor, threshold: float | None, auc: Interval, tpr: Interval) -> Attack:
    accuracy = share = None
    if threshold is not None:
        share = float((forget >= threshold).double().mean())
        accuracy = 0.5 * (share + float((test < threshold).double().mean()))
    return Attack(name, auc, tpr, accuracy, share, forget, test)


def _names(attacks: Sequence[str] | None, can_fit: bool) -> tuple[str, ...]:
    if attacks is None:
        return ATTACKS if can_fit else tuple(_SCORES)
    if isinstance(attacks, str):
        raise TypeError(f"attacks must be a sequence of names, got the string {attacks!r}")
    if not attacks:
        raise ValueError("attacks must name one attack or more, got none")
    for name in attacks:
        if name not in ATTACKS:
            near = difflib.get_close_matches(str(name), ATTACKS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(map(repr, ATTACKS))}"
            raise ValueError(f"attacks names {name!r}, which is none: {hint}")
    if "logistic" in attacks and not can_fit:
        raise ValueError("the attack 'logistic' needs retain and held-out data to be fitted on")
    return tuple(attacks)


def _score_of(name: str, retain: Outputs | None, heldout: Outputs | None) -> Callable[[Outputs], Tensor]:
    if name != "logistic":
        return _SCORES[name]
    assert retain is not None  # _names saw to it
    assert heldout is not None
    fitted = LogisticRegression.fit(_features(retain), _features(heldout))
    return lambda outputs: fitted.scores(_features(outputs))


def _features(outputs: Outputs) -> Tensor:
    return torch.stack([*(score(outputs) for score in _SCORES.values()), outputs.log_odds], 1)
