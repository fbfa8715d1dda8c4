"""The unlearning degree: how much less the model knows of the forget data once that is shifted off its distribution.

A model that forgot i.i.d. data still predicts it, so accuracy on the forget data can't show how deep the unlearning
went. Shift the data slightly, and a model that memorised it copes better than one that never saw it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fgunlearn.batches import Loader, device_of, evaluation_mode, x_and_y
from fgunlearn.metrics.accuracy import check_labels, checked_logits
from fgunlearn.metrics.bootstrap import Interval, check_draws, interval, resampled_means, seed_of_part


class Perturber(Protocol):
    """What shifts the data: an :class:`fgunlearn.SPDGAN`, or anything else with such a method."""

    def perturb(self, x: Tensor) -> Tensor:
        """A batch of samples, shifted; of x's shape."""
        ...


Shift = Perturber | Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class UnlearningDegree:
    """What :func:`unlearning_degree` found. Shares are in [0, 1], losses in nats.

    Attributes:
        acc: UD_acc on the shifted forget data.
        loss: UD_loss on the shifted forget data.
        net: UD_net, UD_acc on the shifted forget data minus that on the shifted control data; None without control.
        net_loss: the same of UD_loss.
        source_accuracy: of the source model on the shifted forget data.
        unlearned_accuracy: of the unlearned model on it.
        source_accuracy_unshifted: of the source model on the forget data as it is.
        source_accuracy_control: of the source model on the shifted control data; None without control.
        unlearned_accuracy_control: of the unlearned model on it.
    """

    acc: Interval
    loss: Interval
    net: Interval | None
    net_loss: Interval | None
    source_accuracy: float
    unlearned_accuracy: float
    source_accuracy_unshifted: float
    source_accuracy_control: float | None
    unlearned_accuracy_control: float | None


def unlearning_degree(
    source: nn.Module,
    unlearned: nn.Module,
    forget_loader: Loader,
    gan: Shift,
    control_loader: Loader | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> UnlearningDegree:
    """UD_acc, UD_loss and UD_net with 95% bootstrap intervals.

    With ~ for shifted, UD_acc(D) = acc(source, D~) - acc(unlearned, D~) and UD_loss(D) = loss(unlearned, D~) -
    loss(source, D~), loss the mean cross entropy. UD_net = UD(D_u) - UD(D_t) cancels a model that merely got worse
    everywhere, and the part of UD that comes from a shift made against the source model: look at UD_net first.

    UD_acc and UD_net are in [-1, 1] and [-2, 2]. A model against itself scores exactly 0 in all four. A retrained model
    scores above 0 where the source had memorised the forget data, and near 0 where it had not: compare with its value.
    Higher is not better than the retrained model's value.

    The same shifted batch goes to both models. Samples are resampled with replacement, in the forget and the control
    data independently, both models' results together.

    Args:
        source: the model before unlearning.
        unlearned: the model after it, on any device.
        forget_loader: D_u, ``(x, y)`` batches; read once, as control_loader is.
        gan: what shifts a batch x: an :class:`fgunlearn.SPDGAN`, or a function; None for the data as it is.
        control_loader: data never trained on, such as D_t, to be shifted in the same way; None to leave UD_net out.
        resamples: bootstrap draws.
        seed: of the draws.

    Raises:
        TypeError: batches that are not ``(x, y)`` tensors, a ``gan`` that can't be called or returns no tensor,
            resamples or a seed that is no int.
        ValueError: an empty loader, fewer than 2 forget or control samples, resamples < 1, a ``gan`` that changes the
            shape of x, models that don't return logits, labels that are not class numbers.
    """
    check_draws(resamples, seed)
    forget = _Compared(source, unlearned, forget_loader, gan, "forget_loader")
    drawn = resampled_means(forget.differences, resamples, seed_of_part(seed, 0))
    acc, loss = (interval(value, drawn[:, i]) for i, value in enumerate(forget.degree))
    found = UnlearningDegree(
        acc=acc,
        loss=loss,
        net=None,
        net_loss=None,
        source_accuracy=forget.source_accuracy,
        unlearned_accuracy=forget.unlearned_accuracy,
        source_accuracy_unshifted=forget.source_accuracy_unshifted,
        source_accuracy_control=None,
        unlearned_accuracy_control=None,
    )
    if control_loader is None:
        return found
    control = _Compared(source, unlearned, control_loader, gan, "control_loader")
    drawn = drawn - resampled_means(control.differences, resamples, seed_of_part(seed, 1))
    net, net_loss = (
        interval(value - of_control, drawn[:, i])
        for i, (value, of_control) in enumerate(zip(forget.degree, control.degree, strict=True))
    )
    return replace(
        found,
        net=net,
        net_loss=net_loss,
        source_accuracy_control=control.source_accuracy,
        unlearned_accuracy_control=control.unlearned_accuracy,
    )


class _Compared:
    """Two models on the same shifted data.

    ``differences``, float64 (samples, 2), are a sample's UD_acc and UD_loss, and ``degree`` their means.
    """

    def __init__(self, source: nn.Module, unlearned: nn.Module, loader: Loader, gan: Shift, argument: str) -> None:
        shift = _shift_of(gan)
        found: list[Tensor] = []
        unshifted: list[Tensor] = []
        with torch.no_grad(), evaluation_mode(source), evaluation_mode(unlearned):
            for batch in loader:
                x, y = x_and_y(batch)
                if not isinstance(x, Tensor):
                    raise TypeError(f"{argument}: x must be a tensor, got {type(x).__name__}")
                unshifted.append(_right_and_loss(source, x, y)[:, 0])
                shifted = shift(x.clone())  # one that works in place must not reach the loader's own data
                if not isinstance(shifted, Tensor):
                    raise TypeError(f"gan must return a tensor, got {type(shifted).__name__}")
                if shifted.shape != x.shape:
                    raise ValueError(f"gan must keep the shape of x, {tuple(x.shape)}, got {tuple(shifted.shape)}")
                found.append(torch.cat([_right_and_loss(model, shifted, y) for model in (source, unlearned)], 1))
        if not found or sum(map(len, found)) == 0:
            raise ValueError(f"{argument} is empty: there is nothing to measure on")
        right, loss, right_after, loss_after = torch.cat(found).unbind(1)
        self.source_accuracy_unshifted = float(torch.cat(unshifted).mean())
        self.source_accuracy = float(right.mean())
        self.unlearned_accuracy = float(right_after.mean())
        self.differences = torch.stack([right - right_after, loss_after - loss], 1)
        self.degree: list[float] = self.differences.mean(0).tolist()
        if len(self.differences) < 2:  # of which every draw is the same
            raise ValueError(f"{argument} must hold 2 samples or more, got {len(self.differences)}")


def _shift_of(gan: Shift) -> Callable[[Tensor], Tensor]:
    if gan is None:
        return lambda x: x
    perturb = getattr(gan, "perturb", gan)
    if not callable(perturb):
        raise TypeError(f"gan must be an SPDGAN, a function of a batch or None, got {type(gan).__name__}")
    return perturb


def _right_and_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Per sample whether the largest logit is the label's, and the cross entropy, float64 (batch, 2) on the CPU."""
    given = x.to(device_of(model), copy=True)  # a model may change its input in place, and both must get the same
    logits = checked_logits(model(given), y)
    check_labels(y, logits.shape[1], "y")
    labels = y.to(logits.device, torch.int64)
    right = logits.argmax(1) == labels
    return torch.stack([right.double(), F.cross_entropy(logits, labels, reduction="none").double()], 1).cpu()
