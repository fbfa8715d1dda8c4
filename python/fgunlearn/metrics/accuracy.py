"""Accuracy, and the per-sample losses that membership inference looks at."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fgunlearn.batches import Loader, device_of, evaluation_mode, moved, x_and_y


@torch.no_grad()
def logits_and_labels(model: nn.Module, loader: Loader) -> tuple[Tensor, Tensor]:
    """``model(x)`` and y over all ``(x, y)`` batches, in eval mode: float32 (samples, classes) and int64 (samples,).

    Logits of float64 stay so. Labels are not looked at: those that are no integers keep their dtype.

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
    y = torch.cat(labels)
    return torch.cat(logits), y if y.is_floating_point() else y.to(torch.int64)


def check_labels(labels: Tensor, classes: int, argument: str) -> None:
    """Refuses labels that are not class numbers.

    Left alone, 1.7 would become 1, and -100, which torch's cross entropy leaves out, a loss of 0.

    Raises:
        ValueError: a dtype that is not an integer's; a label outside [0, classes).
    """
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"{argument} must be integers, got {labels.dtype}")
    if len(labels) == 0:
        return
    low, high = int(labels.to(torch.int64).min()), int(labels.to(torch.int64).max())
    if low < 0 or high >= classes:
        raise ValueError(f"{argument} must be in [0, {classes - 1}], got {low} to {high}")


def checked_logits(out: object, labels: Tensor) -> Tensor:
    """What a model returned for a batch, as float32 logits (batch, classes), or float64 where they are.

    Raises:
        ValueError: it is something else, or the labels are not of shape (batch,).
    """
    if labels.dim() != 1:  # against these a comparison would broadcast
        raise ValueError(f"y must be of shape (batch,), got {tuple(labels.shape)}")
    if not isinstance(out, Tensor) or out.dim() != 2 or len(out) != len(labels):
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"model must return logits of shape ({len(labels)}, classes) for this batch, got {found}")
    if not out.is_floating_point():
        raise ValueError(f"model must return logits of a floating dtype, got {out.dtype}")
    return out if out.dtype == torch.float64 else out.float()


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
    """Cross entropy of every sample, float of shape (samples,), in the loader's order.

    Raises:
        TypeError, ValueError: as :func:`accuracy`; labels that are not class numbers of the model.
    """
    logits, labels = logits_and_labels(model, loader)
    check_labels(labels, logits.shape[1], "y")
    return F.cross_entropy(logits, labels, reduction="none")
