"""Likelihood-ratio membership scores: a sample's confidence on the target against what shadow models say of it.

Everything is in logit-scaled confidences log(p_y / (1 - p_y)), which are nearly normal over trainings
(:attr:`fgunlearn.metrics.Outputs.log_odds`).
"""

from __future__ import annotations

import difflib
import math
from typing import Literal, get_args

import torch
from torch import Tensor

Variant = Literal["online", "offline"]
Variance = Literal["global", "sample"]

_SMALLEST_STD = 1e-6  # shadows that all agree would make any other confidence impossible


def lira_scores(
    target: Tensor,
    shadows: Tensor,
    memberships: Tensor,
    *,
    variant: Variant = "online",
    variance: Variance = "global",
) -> Tensor:
    """The scores of LiRA (Carlini et al., S&P 2022), float64 (samples,), higher for what looks like a member.

    A normal distribution is fitted to every sample's confidences on the shadow models that were trained with it (in)
    and without it (out). With c the confidence on the target,

    - online: log N(c; mean_in, var_in) - log N(c; mean_out, var_out);
    - offline: -log P(Z > c), Z ~ N(mean_out, var_out); "in" is not looked at, so no shadow need see the asked samples.
      It orders samples as the paper's 1 - P(Z > c) does, and stays exact where that is 1 to the last digit.

    Args:
        target: confidences on the target, float (samples,).
        shadows: confidences on the shadow models, float (shadows, samples).
        memberships: bool (shadows, samples), which shadow was trained with which sample.
        variant: see above.
        variance: "sample" fits each sample's own, which takes some 64 shadows; "global" one for all in and one for all
            out, the mean of the samples' own, each counted by its degrees of freedom.

    Raises:
        ValueError: other shapes, values that are not finite, an unknown variant or variance, a sample with fewer than 2
            shadows in or out ("sample"), or without any ("global").
        TypeError: memberships that are not bool.
    """
    check_options(variant, variance)
    _check(target, shadows, "shadows")
    if memberships.dtype != torch.bool:
        raise TypeError(f"memberships must be bool, got {memberships.dtype}")
    if memberships.shape != shadows.shape:
        raise ValueError(f"memberships must be of shape {tuple(shadows.shape)}, got {tuple(memberships.shape)}")
    target, shadows, memberships = target.double().cpu(), shadows.double().cpu(), memberships.cpu()
    mean_out, std_out = _fitted(shadows, ~memberships, variance, "out")
    if variant == "offline":
        return -torch.special.log_ndtr(-(target - mean_out) / std_out)
    mean_in, std_in = _fitted(shadows, memberships, variance, "in")
    return _log_density(target, mean_in, std_in) - _log_density(target, mean_out, std_out)


def u_lira_scores(
    target: Tensor,
    unlearned: Tensor,
    retrained: Tensor,
    *,
    memberships: Tensor | None = None,
    variance: Variance = "global",
) -> Tensor:
    """The scores of U-LiRA, float64 (samples,): how much more the target is like an unlearned model than a retrained.

    log N(c; mean_u, var_u) - log N(c; mean_r, var_r), c the sample's confidence on the target, u its confidences on
    shadow models that were trained with it and then unlearned it, r those on models that never saw it (Hayes et al.,
    Inexact unlearning needs more careful evaluations, 2024; Kurmanji et al., NeurIPS 2023).

    Args:
        target: confidences on the target, float (samples,).
        unlearned: confidences on the unlearned shadow models, float (shadows, samples).
        retrained: confidences on the retrained ones, float (other shadows, samples).
        memberships: bool (shadows, samples), which unlearned shadow had been trained with which sample; None for all.
        variance: see :func:`lira_scores`.

    Raises:
        TypeError, ValueError: as :func:`lira_scores`.
    """
    check_options("online", variance)
    _check(target, unlearned, "unlearned")
    _check(target, retrained, "retrained")
    if memberships is None:
        memberships = torch.ones(unlearned.shape, dtype=torch.bool)
    if memberships.dtype != torch.bool:
        raise TypeError(f"memberships must be bool, got {memberships.dtype}")
    if memberships.shape != unlearned.shape:
        raise ValueError(f"memberships must be of shape {tuple(unlearned.shape)}, got {tuple(memberships.shape)}")
    target, retrained = target.double().cpu(), retrained.double().cpu()
    mean_u, std_u = _fitted(unlearned.double().cpu(), memberships.cpu(), variance, "unlearned")
    mean_r, std_r = _fitted(retrained, torch.ones(retrained.shape, dtype=torch.bool), variance, "retrained")
    return _log_density(target, mean_u, std_u) - _log_density(target, mean_r, std_r)


def check_options(variant: object, variance: object) -> None:
    """Refuses what is no :data:`Variant` and no :data:`Variance`: to be called before shadow models are trained.

    Raises:
        ValueError: one of them is none.
    """
    _choose("variant", variant, get_args(Variant))
    _choose("variance", variance, get_args(Variance))


def _fitted(values: Tensor, used: Tensor, variance: str, which: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the shadows that ``used``, bool (shadows, samples), names for each sample."""
    count = used.sum(0)
    fewest, needed = int(count.min()), 2 if variance == "sample" else 1
    if fewest < needed:
        raise ValueError(
            f"variance={variance!r} needs {needed} shadow models or more for every sample, and sample "
            f"{int(count.argmin())} has {fewest} ({which})"
        )
    mean = values.where(used, 0.0).sum(0) / count
    squares = (values - mean).where(used, 0.0).square().sum(0)
    if variance == "sample":
        found = squares / (count - 1)
    else:
        freedom = int((count - 1).sum())
        if freedom == 0:
            raise ValueError(f"variance='global' needs a sample with 2 shadow models or more ({which})")
        found = (squares.sum() / freedom).expand_as(mean)
    return mean, found.sqrt().clamp_min(_SMALLEST_STD)


def _log_density(value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return -0.5 * ((value - mean) / std).square() - std.log() - 0.5 * math.log(2.0 * math.pi)


def _check(target: Tensor, shadows: Tensor, argument: str) -> None:
    if target.dim() != 1 or len(target) == 0:
        raise ValueError(f"target must be of shape (samples,) with one sample or more, got {tuple(target.shape)}")
    if shadows.dim() != 2 or shadows.shape[1] != len(target):
        raise ValueError(f"{argument} must be of shape (shadows, {len(target)}), got {tuple(shadows.shape)}")
    for name, values in (("target", target), (argument, shadows)):
        bad = int((~values.isfinite()).sum())
        if bad:
            raise ValueError(f"{name} holds {bad} values that are NaN or infinite")


def _choose(argument: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, known))}, got {value!r}{hint}")
