"""The unlearned model against the retrained one in a single figure: tug of war, average gap, and NoMUS without one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from fgunlearn.batches import Loader
from fgunlearn.metrics.attacks import mia_of
from fgunlearn.metrics.outputs import Outputs

PARTS = ("forget", "retain", "test")


def tug_of_war(
    unlearned: nn.Module, retrained: nn.Module, forget_loader: Loader, retain_loader: Loader, test_loader: Loader
) -> float:
    """ToW = prod over D in {D_u, D_r, D_t} of (1 - |acc(unlearned, D) - acc(retrained, D)|), in [0, 1].

    Source: Zhao et al., What makes unlearning hard and what to do about it, NeurIPS 2024. The retrained model scores
    exactly 1, one of another seed somewhat less. It looks at accuracies alone, which i.i.d. forget data hardly move.

    Args:
        unlearned: the model after unlearning.
        retrained: the reference, trained on D_r alone.
        forget_loader: D_u, ``(x, y)`` batches.
        retain_loader: D_r.
        test_loader: D_t.

    Raises:
        TypeError, ValueError: batches that are not ``(x, y)``, an empty loader, outputs that are not finite logits.
    """
    of_unlearned, of_retrained = (
        {part: outputs.accuracy for part, outputs in _looked_at(model, forget_loader, retain_loader, test_loader)}
        for model in (unlearned, retrained)
    )
    return tug_of_war_of(of_unlearned, of_retrained)


def tug_of_war_of(unlearned: Mapping[str, float], retrained: Mapping[str, float]) -> float:
    """:func:`tug_of_war` from accuracies in [0, 1] under "forget", "retain" and "test"; other keys are not looked at.

    Raises:
        ValueError: one of them is missing, or not in [0, 1].
    """
    return math.prod(1.0 - gap for gap in _gaps(unlearned, retrained, PARTS))


@dataclass(frozen=True)
class AverageGap:
    """Absolute differences to the retrained model and their mean, in points, so in [0, 100].

    ``mia`` is arbitrary where the attack knows nothing: see :func:`non_member_share`.
    """

    average: float
    forget: float
    retain: float
    test: float
    mia: float


def average_gap(
    unlearned: nn.Module,
    retrained: nn.Module,
    forget_loader: Loader,
    retain_loader: Loader,
    test_loader: Loader,
    heldout_loader: Loader | None = None,
) -> AverageGap:
    """The mean absolute difference of four shares: accuracies on D_u, D_r and D_t, and MIA, in points.

    As in SalUn (Fan et al., ICLR 2024): MIA is the share of D_u that an attack on the confidence p_y, fitted on D_r
    against never-seen data, judges not to be members. Here the attack is the threshold with the best balanced accuracy.
    The retrained model scores exactly 0; one of another seed what chance makes of it.

    Where that attack can't tell D_r from never-seen data, as on models that hardly overfit, MIA is arbitrary (see
    :func:`non_member_share`): the gap of it can be anything up to 100 points between two models that are alike, and the
    average, of which it is a quarter, anything up to 25 points. Look at the four gaps, and at
    :func:`fgunlearn.metrics.mia` on the retrained model, before reading much into their mean.

    Args:
        unlearned: the model after unlearning.
        retrained: the reference, trained on D_r alone.
        forget_loader: D_u, ``(x, y)`` batches.
        retain_loader: D_r.
        test_loader: D_t.
        heldout_loader: the never-seen data that the attack is fitted on; D_t when None, as in the paper.

    Raises:
        TypeError, ValueError: batches that are not ``(x, y)``, an empty loader, outputs that are not finite logits.
    """

    def shares(model: nn.Module) -> dict[str, float]:
        seen = dict(_looked_at(model, forget_loader, retain_loader, test_loader))
        heldout = seen["test"] if heldout_loader is None else Outputs.of(model, heldout_loader, "heldout_loader")
        found = {part: outputs.accuracy for part, outputs in seen.items()}
        return {**found, "mia": non_member_share(seen["forget"], seen["retain"], heldout)}

    return average_gap_of(shares(unlearned), shares(retrained))


def average_gap_of(unlearned: Mapping[str, float], retrained: Mapping[str, float]) -> AverageGap:
    """:func:`average_gap` from shares in [0, 1] under "forget", "retain", "test" (accuracies) and "mia".

    Raises:
        ValueError: one of them is missing, or not in [0, 1].
    """
    gaps = [100.0 * gap for gap in _gaps(unlearned, retrained, (*PARTS, "mia"))]
    return AverageGap(sum(gaps) / len(gaps), *gaps)


def non_member_share(forget: Outputs, retain: Outputs, heldout: Outputs) -> float:
    """Share of the forget samples that the confidence attack fitted on the other two judges to be no members.

    A sample is judged a member where its confidence p_y reaches a threshold: of the confidences on ``retain`` and
    ``heldout``, the one with the best balanced accuracy on these two (the mean of the share of retain samples that
    reach it and the share of held-out ones that don't), and of several such the largest. In [0, 1]. What a retrained
    model scores depends on how well the attack works on it; no value is the right one for all models.

    Arbitrary where the attack knows nothing. Are the confidences on ``retain`` and ``heldout`` distributed alike, then
    every threshold has a balanced accuracy near 1/2, a few samples decide which is best, and it may lie anywhere: one
    more sample can take the share from near 0 to near 1. The ``balanced_accuracy`` of a
    :class:`fgunlearn.metrics.MembershipJudge` fitted on the negated confidences says how much the attack knows; it is
    the best of all thresholds on the very samples, so a little above 1/2 by chance alone.

    Args:
        forget: what the model says about D_u.
        retain: about D_r, which it was trained on.
        heldout: about data that it never saw.
    """
    [attack] = mia_of(forget, heldout, retain=retain, heldout=heldout, attacks=["confidence"], resamples=1).values()
    assert attack.member_share is not None  # the attack was fitted
    return 1.0 - attack.member_share


def nomus(
    model: nn.Module,
    forget_loader: Loader,
    retain_loader: Loader,
    test_loader: Loader,
    heldout_loader: Loader,
    weight: float = 0.5,
) -> float:
    """NoMUS = weight * acc(D_t) + (1 - weight) * (1 - 2 |acc_MIA - 1/2|), in [0, 1].

    The normalised machine unlearning score of Choi & Na (2023): utility and forgetting in one figure, without a
    retrained model. acc_MIA is how often a membership attack is right about D_u (members) and D_t (others), both
    weighing the same. The attack here is a threshold on the loss, fitted on the model's losses on D_r against held-out
    data: where D_u was forgotten too hard it is wrong about it more often than chance, which costs as much as a trace.

    A retrained model scores about (acc(D_t) + 1) / 2 where D_u and D_t are i.i.d., and less otherwise.

    Args:
        model: the model after unlearning.
        forget_loader: D_u, ``(x, y)`` batches.
        retain_loader: D_r.
        test_loader: D_t.
        heldout_loader: never-seen data that the attack is fitted on, none of it in D_t.
        weight: of the accuracy, in [0, 1].

    Raises:
        TypeError, ValueError: batches that are not ``(x, y)``, an empty loader, outputs that are not finite logits,
            ``weight`` out of its range.
    """
    _check_share("weight", weight)  # before the passes over the data
    seen = dict(_looked_at(model, forget_loader, retain_loader, test_loader))
    heldout = Outputs.of(model, heldout_loader, "heldout_loader")
    [attack] = mia_of(
        seen["forget"], seen["test"], retain=seen["retain"], heldout=heldout, attacks=["loss"], resamples=1
    ).values()
    assert attack.accuracy is not None  # the attack was fitted
    return nomus_of(seen["test"].accuracy, attack.accuracy, weight)


def nomus_of(test_accuracy: float, attack_accuracy: float, weight: float = 0.5) -> float:
    """:func:`nomus` from the accuracy on D_t and that of a membership attack, both in [0, 1].

    Raises:
        ValueError: a number that is not in [0, 1].
    """
    for argument, value in (
        ("test_accuracy", test_accuracy),
        ("attack_accuracy", attack_accuracy),
        ("weight", weight),
    ):
        _check_share(argument, value)
    return weight * test_accuracy + (1.0 - weight) * (1.0 - 2.0 * abs(attack_accuracy - 0.5))


def _looked_at(model: nn.Module, forget: Loader, retain: Loader, test: Loader) -> list[tuple[str, Outputs]]:
    loaders = zip(PARTS, (forget, retain, test), strict=True)
    return [(part, Outputs.of(model, loader, f"{part}_loader")) for part, loader in loaders]


def _gaps(unlearned: Mapping[str, float], retrained: Mapping[str, float], parts: tuple[str, ...]) -> list[float]:
    for argument, shares in (("unlearned", unlearned), ("retrained", retrained)):
        for part in parts:
            if part not in shares:
                raise ValueError(f"{argument} has no {part!r}: it must hold {', '.join(map(repr, parts))}")
            _check_share(f"{argument}[{part!r}]", shares[part])
    return [abs(unlearned[part] - retrained[part]) for part in parts]


def _check_share(argument: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:  # NaN as well
        raise ValueError(f"{argument} must be in [0, 1], got {value}")
