"""LiRA and U-LiRA on one model, their shadow models trained here."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fgunlearn.batches import Loader, x_and_y
from fgunlearn.metrics.attacks import Attack, attack_of
from fgunlearn.metrics.likelihood import Variance, Variant, lira_scores, u_lira_scores
from fgunlearn.metrics.shadows import ShadowTraining, half_memberships, log_odds_of, train_shadows

Batches = list[tuple[Tensor, Tensor]]
Unlearn = Callable[[nn.Module, Batches, Batches], nn.Module]
"""Takes a trained model, its forget and its retain batches; returns the unlearned model, which may be the same."""


def lira(
    model: nn.Module,
    forget_loader: Loader,
    test_loader: Loader,
    new_model: Callable[[], nn.Module],
    *,
    retain_loader: Loader | None = None,
    shadows: int = 16,
    training: ShadowTraining | None = None,
    variant: Variant = "online",
    variance: Variance = "global",
    batched: bool | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> Attack:
    """The likelihood-ratio attack (Carlini et al., S&P 2022) of forget against never-seen samples on one model.

    Every shadow model is trained on a random half of forget and test data together, and on all of the retain data;
    the scores are those of :func:`lira_scores`. AUC and TPR are in [0, 1]. A retrained model scores 0.5 and 0.01 where
    forget and test data are i.i.d.; a model that memorised scores up to 1. The online variant's threshold is a ratio
    of 1, so it has an ``accuracy``; the offline one has none.

    Args:
        model: the model attacked.
        forget_loader: D_u, ``(x, y)`` batches of tensors.
        test_loader: data like D_u that the model never saw; about as many samples as D_u.
        new_model: makes an untrained model of the same architecture; see :func:`train_shadows`.
        retain_loader: D_r, which every shadow is trained on as well; None for none.
        shadows: how many, even.
        training: of the shadows, the model's own if it is known.
        variant: see :func:`lira_scores`.
        variance: see :func:`lira_scores`.
        batched: see :func:`train_shadows`.
        resamples: bootstrap draws.
        seed: of the halves, the trainings and the draws.
        progress: show a bar on a terminal.

    Raises:
        TypeError, ValueError: as :func:`train_shadows` and :func:`lira_scores`; an empty loader.
    """
    pool = _Pool(forget_loader, test_loader, retain_loader)
    asked = half_memberships(shadows, pool.asked, seed)
    x, y, memberships = pool.training_data(asked)
    models = train_shadows(new_model, x, y, memberships, training, seed=seed, batched=batched, progress=progress)
    scores = lira_scores(pool.log_odds([model])[0], pool.log_odds(models), asked, variant=variant, variance=variance)
    threshold = 0.0 if variant == "online" else None
    return attack_of("lira", *pool.parted(scores), threshold, resamples=resamples, seed=seed)


def u_lira(
    model: nn.Module,
    forget_loader: Loader,
    test_loader: Loader,
    new_model: Callable[[], nn.Module],
    unlearn: Unlearn,
    *,
    retain_loader: Loader,
    shadows: int = 16,
    training: ShadowTraining | None = None,
    variance: Variance = "global",
    batch: int = 32,
    batched: bool | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> Attack:
    """U-LiRA (Hayes et al., 2024): is the model more like one that unlearned a sample or one that never saw it?

    The sharpest question to ask of an unlearned model, since the attack knows the unlearning method. ``shadows`` models
    are trained on the retain data and a random half of forget and test data together, and unlearn that half;
    ``shadows`` others are trained on the retain data alone; the scores are those of :func:`u_lira_scores`. AUC and TPR
    are in [0, 1]. 0.5 and 0.01 say that the method leaves no trace, and so scores a retrained model where forget and
    test data are i.i.d. The fewer samples are unlearned beside those retained, the closer are the two kinds of shadows
    in all but the trace.

    Args:
        model: the unlearned model.
        forget_loader: D_u, ``(x, y)`` batches of tensors.
        test_loader: data like D_u that the model never saw; as many samples as D_u, so that a shadow unlearns as many
            as the model did.
        new_model: makes an untrained model of the same architecture; see :func:`train_shadows`.
        unlearn: the method that the model was unlearned by; called with each shadow, which it may change.
        retain_loader: D_r.
        shadows: how many of each, even.
        training: of the shadows, the source model's own if it is known.
        variance: see :func:`lira_scores`.
        batch: samples per batch that ``unlearn`` gets.
        batched: see :func:`train_shadows`.
        resamples: bootstrap draws.
        seed: of the halves, the trainings and the draws.
        progress: show a bar on a terminal.

    Raises:
        TypeError: ``unlearn`` returns no module; and as :func:`lira`.
        ValueError: as :func:`lira`.
    """
    if batch < 1:
        raise ValueError(f"batch must be >= 1, got {batch}")
    pool = _Pool(forget_loader, test_loader, retain_loader)
    asked = half_memberships(shadows, pool.asked, seed)
    x, y, trained_on = pool.training_data(asked)
    memberships = torch.cat([trained_on, pool.training_data(torch.zeros_like(asked))[2]])
    models = train_shadows(new_model, x, y, memberships, training, seed=seed, batched=batched, progress=progress)
    unlearned = []
    for shadow, chosen in zip(models[:shadows], asked, strict=True):
        found = unlearn(shadow, *pool.parts(chosen, batch))
        if not isinstance(found, nn.Module):
            raise TypeError(f"unlearn must return a module, got {type(found).__name__}")
        unlearned.append(found)
    of_retrained = pool.log_odds(models[shadows:])
    target, of_unlearned = pool.log_odds([model])[0], pool.log_odds(unlearned)
    scores = u_lira_scores(target, of_unlearned, of_retrained, memberships=asked, variance=variance)
    return attack_of("u_lira", *pool.parted(scores), 0.0, resamples=resamples, seed=seed)


class _Pool:
    """Forget and test samples, the asked ones, and after them the retain samples that all shadows are trained on."""

    def __init__(self, forget: Loader, test: Loader, retain: Loader | None) -> None:
        parts = [_samples(forget, "forget_loader"), _samples(test, "test_loader")]
        self._forget, self.asked = len(parts[0][1]), sum(len(y) for _, y in parts)
        if retain is not None:
            parts.append(_samples(retain, "retain_loader"))
        self._x, self._y = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])

    def training_data(self, asked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, y and who is trained on what, given which shadow is trained on which asked sample."""
        retain = torch.ones(len(asked), len(self._y) - self.asked, dtype=torch.bool)
        return self._x, self._y, torch.cat([asked, retain], 1)

    def parts(self, chosen: Tensor, size: int) -> tuple[Batches, Batches]:
        """The batches of the chosen asked samples, and those of the retain data."""
        asked = chosen.nonzero()[:, 0]
        retain = torch.arange(self.asked, len(self._y))
        forget, rest = (
            [(self._x[part], self._y[part]) for part in which.split(size)] if len(which) else []
            for which in (asked, retain)
        )
        return forget, rest

    def log_odds(self, models: list[nn.Module]) -> Tensor:
        return log_odds_of(models, self._x[: self.asked], self._y[: self.asked])

    def parted(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return scores[: self._forget], scores[self._forget :]


def _samples(loader: Loader, argument: str) -> tuple[Tensor, Tensor]:
    batches = [x_and_y(batch) for batch in loader]
    if sum(len(y) for _, y in batches) == 0:
        raise ValueError(f"{argument}: the loader is empty: there is nothing to measure on")
    for x, _ in batches:
        if not isinstance(x, Tensor):
            raise TypeError(f"{argument}: x must be a tensor, got {type(x).__name__}")
    return torch.cat([x for x, _ in batches]).cpu(), torch.cat([y for _, y in batches]).cpu()
