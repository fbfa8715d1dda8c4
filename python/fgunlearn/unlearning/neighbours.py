"""What the remaining data alone says about a sample: the labels of its nearest neighbours.

A model that memorised a sample has moved the sample's penultimate features to where its label is, wrong labels
included, so neighbours are looked for in an early layer, where features still follow the input: by default the first
convolution or linear layer, the one that a label reaches last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from fgunlearn.batches import Loader, device_of, evaluation_mode, moved, without_samples, x_and_y
from fgunlearn.features import uncalled_layers

_FEATURES = 4096  # per sample at most: pictures' features are averaged over squares until they fit
_TEMPERATURE = 0.05  # of the votes' weights, in units of cosine similarity


def early_layer(model: nn.Module) -> str:
    """The name of the first layer with weights to multiply by: the model's first convolution or linear layer.

    Raises:
        ValueError: the model has none.
    """
    uncalled = uncalled_layers(model)
    for name, module in model.named_modules():
        if isinstance(module, (_ConvNd, nn.Linear)) and module not in uncalled:
            return name
    raise ValueError("forget='neighbour' needs a model with a convolution or linear layer to take features from")


@torch.no_grad()
def features(model: nn.Module, loader: Loader, layer: str) -> tuple[Tensor, Tensor]:
    """The output of ``layer`` over all batches, flattened per sample and of length 1, and the labels.

    Returns:
        float32 (samples, features) and int64 (samples,).

    Raises:
        ValueError: an empty loader; a layer that the forward pass does not reach.
    """
    taken: list[Tensor] = []

    def take(module: nn.Module, inputs: Any, output: Tensor) -> None:
        taken.append(F.normalize(_pooled(output.detach().float()).flatten(1), dim=1))
        raise _Reached

    device = device_of(model)
    labels = []
    handle = model.get_submodule(layer).register_forward_hook(take)
    try:
        with evaluation_mode(model):
            for batch in loader:
                if without_samples(batch):
                    continue
                x, y = x_and_y(batch)
                try:
                    model(moved(x, device))
                except _Reached:
                    labels.append(y.to(device))
                else:
                    raise ValueError(f"layer {layer!r} is not reached by the model's forward pass")
    finally:
        handle.remove()
    if not labels:
        raise ValueError("the loader is empty")
    return torch.cat(taken), torch.cat(labels)


def check_class_numbers(labels: Tensor, argument: str, classes: int | None = None) -> None:
    """Refuses labels that are not one integer per sample, from 0 to ``classes`` - 1 where that is known.

    Raises:
        TypeError, ValueError: of the loader called ``argument``.
    """
    if labels.dim() != 1 or labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise TypeError(
            f"a forget term needs one integer class number per sample, got y of {str(labels.dtype)[6:]} and shape "
            f"{tuple(labels.shape)} from {argument}"
        )
    if classes is None:
        return
    for label in (int(labels.min()), int(labels.max())):
        if not 0 <= label < classes:
            raise ValueError(f"{argument} has the label {label}, but the model has {classes} logits")


def _pooled(output: Tensor) -> Tensor:
    if output.dim() == 4 and output[0].numel() > _FEATURES:
        side = max(1, math.isqrt(_FEATURES // output.shape[1]))
        return F.adaptive_avg_pool2d(output, (min(side, output.shape[2]), min(side, output.shape[3])))
    return output


class _Reached(Exception):
    """The layer whose features are wanted has run: the rest of the model need not."""


def neighbour_votes(
    model: nn.Module, retain: Loader, classes: int, neighbours: int, layer: str | None = None
) -> Callable[[Loader], tuple[Tensor, Tensor]]:
    """A function from a loader to the votes on its samples, float32 (samples, classes) with rows of sum 1, and labels.

    The ``neighbours`` most similar remaining samples (cosine, at the output of ``layer``) vote for their labels with
    weights softmax(similarity / 0.05). Memory: the features of all remaining
    samples, at most 4,096 floats each for pictures.

    Raises:
        TypeError, ValueError: labels that are not class numbers; no module of that name.
    """
    if layer is None:
        layer = early_layer(model)
    elif layer not in dict(model.named_modules()):
        raise ValueError(f"neighbour_layer must name a module of the model, got {layer!r}")
    kept, kept_labels = features(model, retain, layer)
    check_class_numbers(kept_labels, "retain_loader", classes)
    count = min(neighbours, len(kept))

    def vote(loader: Loader) -> tuple[Tensor, Tensor]:
        asked, labels = features(model, loader, layer)
        votes = torch.zeros(len(asked), classes, device=asked.device)
        for start in range(0, len(asked), 1024):
            similar, which = (asked[start : start + 1024] @ kept.T).topk(count, dim=1)
            weights = torch.softmax(similar / _TEMPERATURE, dim=1)
            votes[start : start + 1024].scatter_add_(1, kept_labels[which], weights)
        return votes, labels

    return vote
