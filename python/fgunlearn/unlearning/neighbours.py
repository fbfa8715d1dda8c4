"""What the remaining data alone says about a sample: the labels of its nearest neighbours.

A model that memorised a sample has moved the sample's penultimate features to where its label is, wrong labels
included, so neighbours are looked for in an earlier layer, where features still follow the input: the first convolution
or linear layer, the one that a label reaches last, or with held-out data at hand the layer whose neighbours know most
without knowing the forget samples any better (:func:`telling_layer`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from fgunlearn.batches import Loader, device_of, evaluation_mode, moved, without_samples, x_and_y
from fgunlearn.features import uncalled_layers

_FEATURES = 4096  # per sample at most: pictures' features are averaged over squares until they fit
_TEMPERATURE = 0.05  # of the votes' weights, in units of cosine similarity
_PLACES = 6  # that are compared
_LOOKED_AT = 2000  # samples of each loader, to compare them
_FEATURES_TO_COMPARE = 1024  # per sample and place
_SLACK = 0.1  # of the ratio of right votes, which some hundred samples tell to about 0.05


def early_layer(model: nn.Module) -> str:
    """The name of the first layer with weights to multiply by: the model's first convolution or linear layer.

    Raises:
        ValueError: the model has none.
    """
    uncalled = uncalled_layers(model)
    for name, module in model.named_modules():
        if isinstance(module, (_ConvNd, nn.Linear)) and module not in uncalled:
            return name
    raise ValueError(
        "neighbours are looked for in a convolution or linear layer, and the model has none: name another module by "
        "neighbour_layer"
    )


@dataclass(frozen=True)
class Place:
    """Where features are taken: what the module ``layer`` returns, or what it is given first."""

    layer: str
    given: bool = False


@torch.no_grad()
def features(model: nn.Module, loader: Loader, place: Place) -> tuple[Tensor, Tensor]:
    """The features of all batches, flattened per sample and of length 1, and the labels.

    Returns:
        float32 (samples, features) and the labels (samples,) in the loader's dtype.

    Raises:
        ValueError: an empty loader; a layer that the forward pass does not reach, or that returns something else than
            a tensor with one row per sample.
    """
    taken: list[Tensor] = []

    def take_given(module: nn.Module, inputs: Any) -> None:
        if _has_rows(inputs):  # the call that places are compared by
            taken.append(_directions(inputs[0]))
            raise _Reached

    def take_returned(module: nn.Module, inputs: Any, output: Any) -> None:
        if not _has_rows((output,)):
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"layer {place.layer!r} must return a tensor (samples, ...) for neighbours, got {found}")
        taken.append(_directions(output))
        raise _Reached

    device = device_of(model)
    labels = []
    module = model.get_submodule(place.layer)
    handle = (
        module.register_forward_pre_hook(take_given) if place.given else module.register_forward_hook(take_returned)
    )
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
                    raise ValueError(f"layer {place.layer!r} is not reached by the model's forward pass")
                if len(taken[-1]) != len(y):  # time steps first: rows of one sample would get another's label
                    raise ValueError(
                        f"layer {place.layer!r} has {len(taken[-1])} rows for a batch of {len(y)} samples: neighbours "
                        "need a layer whose first dimension is the batch"
                    )
    finally:
        handle.remove()
    if not labels:
        raise ValueError("the loader is empty")
    return torch.cat(taken), torch.cat(labels)


def _has_rows(values: Any) -> bool:
    """Whether the first of the values is a tensor that can have a row per sample."""
    return bool(values) and isinstance(values[0], Tensor) and values[0].dim() >= 2


def _directions(output: Tensor, most: int = _FEATURES) -> Tensor:
    """Rows of length 1, one per sample."""
    return F.normalize(_pooled(output.detach().float(), most).flatten(1), dim=1)


def _pooled(output: Tensor, most: int) -> Tensor:
    if output.dim() == 4 and output[0].numel() > most:
        side = max(1, math.isqrt(most // output.shape[1]))
        return F.adaptive_avg_pool2d(output, (min(side, output.shape[2]), min(side, output.shape[3])))
    if output.dim() == 3 and output[0].numel() > most:  # tokens or time steps
        steps = max(1, most // output.shape[2])
        return F.adaptive_avg_pool1d(output.transpose(1, 2), min(steps, output.shape[1]))
    return output


class _Reached(Exception):
    """The layer whose features are wanted has run: the rest of the model need not."""


class NeighbourVotes:
    """What the remaining samples vote for: a function from a loader to votes and labels.

    The ``neighbours`` most similar remaining samples (by cosine, at ``layer``) vote for their labels with weights
    softmax(similarity / 0.05). Memory: the features of all remaining samples, at most 4,096 floats each for pictures
    and sequences.

    Args:
        model: what gives the features, as it is now: call before it is changed.
        retain: the remaining data.
        classes: how many there are.
        neighbours: how many vote.
        layer: name of a module, for what it returns; a :class:`Place`; None for the first layer with weights.

    Raises:
        TypeError, ValueError: labels that are not class numbers; no module of that name.
    """

    def __init__(
        self, model: nn.Module, retain: Loader, classes: int, neighbours: int, layer: str | Place | None = None
    ) -> None:
        if layer is None:
            layer = early_layer(model)
        self._place = layer if isinstance(layer, Place) else Place(layer)
        if self._place.layer not in dict(model.named_modules()):
            raise ValueError(f"neighbour_layer must name a module of the model, got {self._place.layer!r}")
        self._model, self._classes, self._neighbours = model, classes, neighbours
        self._kept, labels = features(model, retain, self._place)
        check_class_numbers(labels, "retain_loader", classes)
        self._labels = labels.long()

    @property
    def known(self) -> Tensor:
        """The classes that the remaining data has: bool (classes,)."""
        return torch.bincount(self._labels, minlength=self._classes) > 0

    def __call__(self, loader: Loader) -> tuple[Tensor, Tensor]:
        """The votes on its samples, float32 (samples, classes) with rows of sum 1, and their labels, (samples,)."""
        asked, labels = features(self._model, loader, self._place)
        return _votes(asked, self._kept, self._labels, self._classes, self._neighbours), labels


def _votes(asked: Tensor, kept: Tensor, kept_labels: Tensor, classes: int, neighbours: int) -> Tensor:
    votes = torch.zeros(len(asked), classes, device=asked.device)
    for start in range(0, len(asked), 1024):
        similar, which = (asked[start : start + 1024] @ kept.T).topk(min(neighbours, len(kept)), dim=1)
        weights = torch.softmax(similar / _TEMPERATURE, dim=1)
        votes[start : start + 1024].scatter_add_(1, kept_labels[which], weights)
    return votes


def telling_layer(
    model: nn.Module, forget: Loader, retain: Loader, heldout: Loader, classes: int, neighbours: int
) -> Place:
    """The place in the model whose neighbours know most about held-out samples, and no more about the forget samples.

    Places are what the convolution and linear layers but for the first are given, at most 6 evenly spread over the
    depth; of each loader the first batches are looked at, until they have 2,000 samples, so let the remaining data be
    shuffled. Places whose votes are right on less than half as many held-out samples as the best place's are out. Where
    the others are right on a larger share of the forget samples, relative to the held-out ones, than the place where
    that ratio is smallest, give or take 0.1, it is memorised labels that they repeat. Of those that are left, the one
    with the most right votes on held-out samples is taken, the first of equals. Where there is no place to compare, it
    is what the first layer returns.

    Raises:
        TypeError, ValueError: labels that are not class numbers; no convolution or linear layer at all.
    """
    names = _weighted_layers(model)
    if not names:
        return Place(early_layer(model))
    count = min(_PLACES, len(names))
    candidates = [names[round(i * (len(names) - 1) / max(1, count - 1))] for i in range(count)]
    seen = [_given_to(model, loader, candidates) for loader in (retain, forget, heldout)]
    for (_, labels), argument in zip(seen, ("retain_loader", "forget_loader", "heldout_loader"), strict=True):
        check_class_numbers(labels, argument, classes)
    known = torch.isin(seen[2][1], seen[0][1].unique())
    shares = {}
    for name in candidates:
        if any(name not in given for given, _ in seen):
            continue
        kept, kept_labels = seen[0][0][name], seen[0][1]
        rights = []
        for (given, labels), comparable in ((seen[1], slice(None)), (seen[2], known)):
            votes = _votes(given[name][comparable], kept, kept_labels.long(), classes, neighbours)
            rights.append(float((votes.argmax(1) == labels[comparable]).double().mean()) if len(votes) else 0.0)
        shares[name] = rights
    if not shares:
        return Place(early_layer(model))
    most = max(unseen for _, unseen in shares.values())
    telling = {name: pair for name, pair in shares.items() if pair[1] >= most / 2.0 and pair[1] > 0.0}
    if not telling:  # nothing is told anywhere
        return Place(next(iter(shares)), given=True)
    least = min(forgotten / unseen for forgotten, unseen in telling.values())
    honest = {name: unseen for name, (forgotten, unseen) in telling.items() if forgotten / unseen <= least + _SLACK}
    return Place(max(honest, key=lambda name: honest[name]), given=True)


def _weighted_layers(model: nn.Module) -> list[str]:
    """Convolution and linear layers but for the first, whose input is the data itself."""
    uncalled = uncalled_layers(model)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (_ConvNd, nn.Linear)) and module not in uncalled
    ][1:]


@torch.no_grad()
def _given_to(model: nn.Module, loader: Loader, layers: list[str]) -> tuple[dict[str, Tensor], Tensor]:
    """What the layers are given, as rows of length 1, over the loader's first samples; and the labels."""
    rows: dict[str, list[Tensor]] = {name: [] for name in layers}
    labels: list[Tensor] = []
    taken: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def take(module: nn.Module, inputs: Any) -> None:
            if name not in taken and _has_rows(inputs):
                taken[name] = _directions(inputs[0], _FEATURES_TO_COMPARE)

        return take

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in layers]
    device = device_of(model)
    try:
        with evaluation_mode(model):
            for batch in loader:
                if without_samples(batch):
                    continue
                x, y = x_and_y(batch)
                taken.clear()
                model(moved(x, device))
                labels.append(y.to(device))
                for name in layers:
                    if name in taken and len(taken[name]) == len(y):
                        rows[name].append(taken[name])
                if sum(len(part) for part in labels) >= _LOOKED_AT:
                    break
    finally:
        for handle in handles:
            handle.remove()
    if not labels:
        raise ValueError("the loader is empty")
    return {name: torch.cat(parts) for name, parts in rows.items() if len(parts) == len(labels)}, torch.cat(labels)


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
