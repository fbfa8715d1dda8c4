"""D_u with wrong labels: what random_label and salun teach a model to forget by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fgunlearn.batches import Loader, class_count


def labelled(batch: Any, method: str) -> tuple[Any, Tensor]:
    """The two halves of an ``(x, y)`` batch with class numbers y.

    Raises:
        TypeError: the batch is of another form; the method that needs it is named.
    """
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[1], Tensor)):
        raise TypeError(f"{method} needs (x, y) batches with a tensor y of class numbers, got {type(batch).__name__}")
    x, y = batch
    if y.dim() != 1 or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(
            f"{method} needs (x, y) batches with one integer class number per sample in y, got {str(y.dtype)[6:]} of "
            f"shape {tuple(y.shape)}"
        )
    return x, y


def with_wrong_labels(model: nn.Module, loader: Loader, seed: int, method: str) -> list[tuple[Any, Tensor]]:
    """The batches of one pass over the loader, held in memory, each label replaced by a wrong one.

    The wrong label is drawn once per sample, uniformly among the other classes, as many as the model has logits; a
    function of the seed and the order of the samples.

    Raises:
        TypeError: batches that are not ``(x, y)`` with class numbers.
        ValueError: a model with fewer than two logits, a label that is none of them.
    """
    generator = torch.Generator().manual_seed(seed)
    relabelled: list[tuple[Any, Tensor]] = []
    classes = 0
    for batch in loader:
        x, y = labelled(batch, method)
        if y.numel() == 0:
            relabelled.append((x, y))
            continue
        classes = classes or class_count(model, x)
        if classes < 2:
            raise ValueError(f"{method} needs a model with at least 2 logits: there is no wrong class among {classes}")
        for label in (int(y.min()), int(y.max())):
            if not 0 <= label < classes:
                raise ValueError(f"{method} needs labels from 0 to {classes - 1}, as the model has logits, got {label}")
        shift = torch.randint(1, classes, y.shape, generator=generator)
        relabelled.append((x, (y + shift.to(y.device)) % classes))
    return relabelled
