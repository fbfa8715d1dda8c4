"""Accuracy, and the per-sample losses that membership inference looks at."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fgunlearn.batches import Loader, device_of, evaluation_mode, moved, x_and_y


@torch.no_grad()
def logits_and_labels(model: nn.Module, loader: Loader) -> tuple[Tensor, Tensor]:
    """``model(x)`` and y over all ``(x, y)`` batches, in eval mode: float32 (samples, classes) and int64 (samples,).

    Raises:
        TypeError: batches of another form.
        ValueError: an empty loader, or a model that does not return logits of shape (batch, classes).
    """
    device = device_of(model)
    logits, labels = [], []
    with evaluation_mode(model):
        for batch in loader:
            x, y = x_and_y(batch)
            logits.append(checked_logits(model(moved(x, device)), y))
            labels.append(y.to(device))
    if not labels or sum(len(y) for y in labels) == 0:
        raise ValueError("the loader is empty: there is nothing to measure on")
    return torch.cat(logits), torch.cat(labels)


def checked_logits(out: object, labels: Tensor) -> Tensor:
    """What a model returned for a batch, as float32 logits (batch, classes).

    Raises:
        ValueError: it is something else, or the labels are not of shape (batch,).
    """
    if labels.dim() != 1:  # against these a comparison would broadcast
        raise ValueError(f"y must be of shape (batch,), got {tuple(labels.shape)}")
    if not isinstance(out, Tensor) or out.dim() != 2 or len(out) != len(labels):
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"model must return logits of shape ({len(labels)}, classes) for this batch, got {found}")
    return out.float()


def accuracy(model: nn.Module, loader: Loader) -> float:
    """Share of samples whose largest logit is their label's, in [0, 1].

    A retrained model scores about its test accuracy on i.i.d. forget data, 0 on a class it never saw, and about 0 on
    wrong labels.

    Raises:
        TypeError, ValueError: batches that are not ``(x, y)``, an empty loader, outputs that are not logits.
    """
    logits, labels = logits_and_labels(model, loader)
    return float((logits.argmax(1) == labels).double().mean())


def sample_losses(model: nn.Module, loader: Loader) -> Tensor:
    """Cross entropy of every sample, float32 of shape (samples,), in the loader's order."""
    logits, labels = logits_and_labels(model, loader)
    return F.cross_entropy(logits, labels, reduction="none")
