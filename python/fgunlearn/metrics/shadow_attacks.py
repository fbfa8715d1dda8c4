"""LiRA and U-LiRA on one model, their shadow models trained here."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fgunlearn.arguments import check_count
from fgunlearn.batches import Loader, x_and_y
from fgunlearn.metrics.attacks import Attack, attack_of
from fgunlearn.metrics.bootstrap import check_draws
from fgunlearn.metrics.likelihood import Variance, Variant, check_options, lira_scores, u_lira_scores
from fgunlearn.metrics.outputs import Outputs
from fgunlearn.metrics.shadows import (
    EVALUATION_BATCH,
    ShadowTraining,
    check_training,
    half_memberships,
    log_odds_of,
    train_shadows,
)
from fgunlearn.seeding import derived_seed

_RETRAINED = 2**33  # past the positions that train_shadows and half_memberships derive seeds for

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

    It costs ``shadows`` trainings. All arguments are checked, on the model attacked as well, before the first.

    Args:
        model: the model attacked.
        forget_loader: D_u, ``(x, y)`` batches of tensors.
        test_loader: data like D_u that the model never saw; about as many samples as D_u.
        new_model: makes an untrained model of the same architecture; see :func:`train_shadows`.
        retain_loader: D_r, which every shadow is trained on as well; None for none.
        shadows: how many, even and at least 4, so that every sample has two with it and two without.
        training: of the shadows, the model's own if it is known; ``ShadowTraining()`` when None.
        variant: see :func:`lira_scores`.
        variance: see :func:`lira_scores`.
        batched: see :func:`train_shadows`.
        resamples: bootstrap draws.
        seed: of the halves, the trainings and the draws.
        progress: show a bar on a terminal.

    Raises:
        TypeError, ValueError: as :func:`train_shadows` and :func:`lira_scores`; an empty loader; loaders of samples
            that differ in shape or dtype; shadows that are odd or below 4; resamples < 1.
    """
    check_options(variant, variance)
    _check(new_model, shadows, training, batched, resamples, seed)
    pool = _Pool(forget_loader, test_loader, retain_loader)
    asked = half_memberships(shadows, pool.asked, seed)
    target = pool.of_target(model)
    x, y, memberships = pool.training_data(asked)
    models = train_shadows(new_model, x, y, memberships, training, seed=seed, batched=batched, progress=progress)
    scores = lira_scores(target, pool.log_odds(models), asked, variant=variant, variance=variance)
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
    ``shadows`` others are trained on the retain data alone, ``training.epochs`` passes over what each kind is trained
    on; the scores are those of :func:`u_lira_scores`. AUC and TPR are in [0, 1]. 0.5 and 0.01 are what a method scores
    that leaves no trace, and a retrained model where forget and test data are i.i.d.; that a method scores them says
    that this attack found none. The fewer samples are unlearned beside those retained, the closer are the two kinds of
    shadows in all but the trace.

    It costs ``2 * shadows`` trainings and ``shadows`` calls of ``unlearn``, for one model, one method and one forget
    set: with the default, 32 trainings, where most other metrics take passes over the data. That is why ``fgunlearn
    compare`` does without, and why all arguments are checked, on the unlearned model as well, before the first
    training. What is ``unlearn``'s own affair shows only when it is called: try it out on a model of its own first.

    It is called with the method as a function, the very one that the model was unlearned by::

        def method(model, forget, retain):
            fg.methods.finetune(model, forget, retain, epochs=1, lr=0.01)  # any method, or fg.unlearn
            return model

        unlearned = method(copy.deepcopy(source), forget_loader, retain_loader)
        recipe = fg.metrics.ShadowTraining(epochs=30, batch=32, lr=0.1)  # that of the source model
        found = fg.metrics.u_lira(
            unlearned, forget_loader, test_loader, new_model, method, retain_loader=retain_loader, training=recipe
        )
        print(found.auc, found.tpr)

    Args:
        model: the unlearned model.
        forget_loader: D_u, ``(x, y)`` batches of tensors.
        test_loader: data like D_u that the model never saw; as many samples as D_u, so that a shadow unlearns as many
            as the model did.
        new_model: makes an untrained model of the same architecture; see :func:`train_shadows`.
        unlearn: the method that the model was unlearned by; called as ``unlearn(shadow, forget, retain)`` with each
            shadow, in eval mode, which it may change, and two lists of ``(x, y)`` batches on the CPU. Returns the
            unlearned model, which is looked at before the next call. What it draws is not a function of ``seed``.
        retain_loader: D_r.
        shadows: how many of each, even and at least 4, so that every sample is unlearned by two.
        training: of the shadows, the source model's own if it is known; ``ShadowTraining()`` when None.
        variance: see :func:`lira_scores`.
        batch: samples per batch that ``unlearn`` gets, the last one fewer.
        batched: see :func:`train_shadows`.
        resamples: bootstrap draws.
        seed: of the halves, the trainings and the draws.
        progress: show a bar on a terminal.

    Raises:
        TypeError: an ``unlearn`` that can't be called or returns no module; and as :func:`lira`.
        ValueError: as :func:`lira`; a batch < 1; too few samples for each shadow to have one to unlearn; an unlearned
            shadow whose outputs are not finite logits.
    """
    check_options("online", variance)
    _check(new_model, shadows, training, batched, resamples, seed)
    check_count(batch, "batch")
    if isinstance(unlearn, nn.Module) or not callable(unlearn):
        raise TypeError(f"unlearn must be a function of a model and two lists of batches, got {type(unlearn).__name__}")
    if retain_loader is None:
        raise TypeError("retain_loader must be a loader: the retrained shadows are trained on it alone, got None")
    pool = _Pool(forget_loader, test_loader, retain_loader)
    asked = half_memberships(shadows, pool.asked, seed)
    idle = (~asked.any(1)).nonzero()[:, 0]
    if len(idle):
        raise ValueError(
            f"forget_loader and test_loader hold {pool.asked} samples together, too few for {shadows} shadows: number "
            f"{int(idle[0])} would have none to unlearn"
        )
    target = pool.of_target(model)

    def trained(asked: Tensor, seed: int) -> list[nn.Module]:
        x, y, memberships = pool.training_data(asked)
        return train_shadows(new_model, x, y, memberships, training, seed=seed, batched=batched, progress=progress)

    # In a call each, as each kind makes the steps that its own number of samples asks for; and looked at one by one,
    # so that an unlearn which fails does so early, and may return the same module again.
    of_unlearned = []
    for shadow, (learned, chosen) in enumerate(zip(trained(asked, seed), asked, strict=True)):
        found = unlearn(learned, *pool.parts(chosen, batch))
        if not isinstance(found, nn.Module):
            raise TypeError(f"unlearn must return a module, got {type(found).__name__}")
        of_unlearned.append(pool.of_unlearned(found, shadow))
    of_retrained = pool.log_odds(trained(torch.zeros_like(asked), derived_seed(seed, _RETRAINED)))
    scores = u_lira_scores(target, torch.stack(of_unlearned), of_retrained, memberships=asked, variance=variance)
    return attack_of("u_lira", *pool.parted(scores), 0.0, resamples=resamples, seed=seed)


def _check(new_model: object, shadows: int, training: object, batched: object, resamples: object, seed: object) -> None:
    check_training(new_model, training, seed, batched)
    check_draws(resamples, seed)
    check_count(shadows, "shadows", 4)  # a variance takes two models on either side
    if shadows % 2:
        raise ValueError(f"shadows must be even, got {shadows}")


class _Pool:
    """Forget and test samples, the asked ones, and after them the retain samples that all shadows are trained on."""

    def __init__(self, forget: Loader, test: Loader, retain: Loader | None) -> None:
        loaders = {"forget_loader": forget, "test_loader": test}
        if retain is not None:
            loaders["retain_loader"] = retain
        self._parts = {argument: _samples(loader, argument) for argument, loader in loaders.items()}
        first = self._parts["forget_loader"][0]
        for argument, (x, _) in self._parts.items():
            if x.shape[1:] != first.shape[1:] or x.dtype != first.dtype:
                raise ValueError(
                    f"{argument}: samples must be like those of forget_loader, {first.dtype} of shape "
                    f"{tuple(first.shape[1:])}, got {x.dtype} of shape {tuple(x.shape[1:])}"
                )
        self._forget = len(first)
        self.asked = self._forget + len(self._parts["test_loader"][0])
        self._x, self._y = (torch.cat(halves) for halves in zip(*self._parts.values(), strict=True))

    def of_target(self, model: nn.Module) -> Tensor:
        """The log odds of the asked samples on the model attacked, which has looked at the retain samples as well.

        So labels and samples that a model of its kind can't take are found before one is trained on them.
        """
        found = [Outputs.of(model, _batches(*part), argument).log_odds.cpu() for argument, part in self._parts.items()]
        return torch.cat(found[:2])

    def of_unlearned(self, model: nn.Module, shadow: int) -> Tensor:
        batches = _batches(self._x[: self.asked], self._y[: self.asked])
        return Outputs.of(model, batches, f"unlearn, of shadow model {shadow}").log_odds.cpu()

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
    parts: list[tuple[Tensor, Tensor]] = []
    for batch in loader:
        x, y = x_and_y(batch)
        if not isinstance(x, Tensor):
            raise TypeError(f"{argument}: x must be a tensor, got {type(x).__name__}")
        if y.dim() != 1 or x.dim() == 0 or len(x) != len(y):
            raise ValueError(
                f"{argument}: a batch must be x of shape (batch, ...) and y of shape (batch,), got {tuple(x.shape)} "
                f"and {tuple(y.shape)}"
            )
        if parts and x.shape[1:] != parts[0][0].shape[1:]:
            found = f"{tuple(parts[0][0].shape[1:])} and {tuple(x.shape[1:])}"
            raise ValueError(f"{argument}: samples must be of one shape, to be trained on in any order, got {found}")
        parts.append((x.detach().cpu(), y.cpu()))
    if sum(len(y) for _, y in parts) == 0:
        raise ValueError(f"{argument}: the loader is empty: there is nothing to measure on")
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def _batches(x: Tensor, y: Tensor) -> Batches:
    return list(zip(x.split(EVALUATION_BATCH), y.split(EVALUATION_BATCH), strict=True))
