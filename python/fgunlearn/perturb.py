"""Perturbing the selected coordinates, and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from fgunlearn import ops
from fgunlearn.arguments import check_number, check_seed
from fgunlearn.batches import Loader, LossFunction, cross_entropy, evaluation_mode
from fgunlearn.distributed.agreement import agree
from fgunlearn.distributed.layout import local_part
from fgunlearn.distributed.perturbing import Pieces, rms_of
from fgunlearn.distributed.scoring import nonfinite_counts
from fgunlearn.distributed.sharded import ShardedSelection, placed_as
from fgunlearn.initial import Initial, initial_distribution
from fgunlearn.ops.perturb import GAUSSIAN_STREAM, RESET_STREAM
from fgunlearn.parameters import first_difference, trainable
from fgunlearn.selection.scores import accumulate
from fgunlearn.selection.selection import Selection


@dataclass(frozen=True)
class Gaussian:
    """``theta_i += std * rms(tensor) * z_i`` with z_i ~ N(0, 1), a function of seed and global index alone.

    Args:
        std: standard deviation, >= 0, in units of the root mean square of the coordinate's tensor; or, with
        relative=False, of the parameters themselves.
        seed: any 64-bit integer.
    """

    std: float = 0.1
    relative: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_number(self.std, "std")
        if self.std < 0:
            raise ValueError(f"std must be >= 0, got {self.std}")
        check_seed(self.seed)


@dataclass(frozen=True)
class Reset:
    """Redraws from the distribution torch initialises the layer with, a function of seed and global index alone.

    Known for torch's linear, convolution, normalisation, embedding, recurrent, bilinear, PReLU and attention layers;
    a selected parameter of another layer is refused by name.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)


@dataclass(frozen=True)
class Shrink:
    """``theta_i *= factor``, 0 <= factor < 1: memory fades, and what remains is a start to learn from again.

    Source: "shrink and perturb", Ash and Adams, "On warm-starting neural network training", NeurIPS 2020; here on the
    selected weights of layers only: vectors such as biases and normalisation scales keep their values.
    """

    factor: float = 0.5

    def __post_init__(self) -> None:
        check_number(self.factor, "factor")
        if not 0.0 <= self.factor < 1.0:
            raise ValueError(f"factor must be in [0, 1), got {self.factor}")


@dataclass(frozen=True)
class Zero:
    """``theta_i = 0``."""


@dataclass(frozen=True)
class Ascent:
    """``theta_i += lr * g_i``: one step up the mean loss of the data to forget. lr > 0."""

    lr: float

    def __post_init__(self) -> None:
        check_number(self.lr, "lr")
        if self.lr <= 0:
            raise ValueError(f"lr must be > 0, got {self.lr}")


Perturbation = Gaussian | Reset | Shrink | Zero | Ascent


def perturb_(
    model: nn.Module,
    selection: Selection,
    perturbation: Perturbation,
    *,
    loader: Loader | None = None,
    loss_fn: LossFunction | None = None,
) -> nn.Module:
    """Perturbs the selected coordinates of the model in place; every other bit stays what it was.

    Of a model whose parameters are DTensors, every process perturbs its own part, to the same values as a single
    process that has the whole model, however it is sharded (Ascent: as far as the gradients are the same); all of them
    have to call this. ``relative=True`` is one all-reduce of one number per parameter, Ascent the backward passes', the
    others communicate nothing.

    Args:
        model: the model the selection was made for.
        selection: which coordinates.
        perturbation: Gaussian, Reset, Shrink, Zero or Ascent.
        loader: the data to forget, for Ascent only.
        loss_fn: as in :func:`fgunlearn.score`, for Ascent only.

    Returns:
        The model.

    Raises:
        TypeError: an unknown perturbation.
        ValueError: a selection made for another model or on another device, a NaN or infinite parameter (Gaussian) or
            gradient (Ascent), no or an empty loader for Ascent, a layer that Reset does not know. The model is
            unchanged then.
    """
    parameters = matched_parameters(model, selection)
    selection = placed_as(selection, parameters)
    if isinstance(selection, ShardedSelection):
        identity = selection.identity

        def checked() -> dict[str, object]:
            _check_loader(perturbation, loader)
            return {"perturbation": perturbation, "selection": identity}

        agree(selection.processes, "fgunlearn.perturb_", checked)
    _check_loader(perturbation, loader)
    chosen = zip(parameters, selection.indices, selection.counts, strict=True)
    touched = {name: index for name, index, count in chosen if count > 0}
    tensors = {name: parameters[name].detach() for name in touched}
    indices = list(touched.values())
    offsets = _offsets(parameters, touched)
    none = [Initial("none")] * len(tensors)
    if isinstance(perturbation, Gaussian):
        draws = [Initial("normal", 0.0, scale) for scale in _noise_scales(tensors, perturbation)]
        _apply(tensors, indices, draws, [1.0] * len(tensors), perturbation.seed, GAUSSIAN_STREAM, offsets)
    elif isinstance(perturbation, Reset):
        draws = [initial_distribution(model, name) for name in touched]
        _apply(tensors, indices, draws, [0.0] * len(tensors), perturbation.seed, RESET_STREAM, offsets)
    elif isinstance(perturbation, Shrink):
        keep = [perturbation.factor if tensor.dim() > 1 else 1.0 for tensor in tensors.values()]
        _apply(tensors, indices, none, keep, 0, RESET_STREAM, offsets)
    elif isinstance(perturbation, Zero):
        _apply(tensors, indices, none, [0.0] * len(tensors), 0, RESET_STREAM, offsets)
    elif isinstance(perturbation, Ascent):
        assert loader is not None
        gradients = _mean_gradients(model, parameters, loader, loss_fn)
        parts = [local_part(tensor) for tensor in tensors.values()]
        ops.sparse_ascent_(parts, [gradients[name] for name in touched], indices, perturbation.lr)
    else:
        raise TypeError(f"perturbation must be a Gaussian, Reset, Shrink, Zero or Ascent, got {perturbation!r}")
    return model


def matched_parameters(model: nn.Module, selection: Selection) -> dict[str, nn.Parameter]:
    """The model's trainable parameters, if the selection was made for them.

    Raises:
        TypeError: not a Selection.
        ValueError: names, shapes or devices differ; the first difference is named.
    """
    if not isinstance(selection, Selection):
        raise TypeError(f"selection must be a Selection, got {type(selection).__name__}")
    parameters = trainable(model)
    difference = first_difference(selection.names, selection.shapes, parameters)
    if difference is not None:
        raise ValueError(f"the selection was made for another model: {difference}")
    device = next(iter(parameters.values())).device
    if selection.device != device:
        raise ValueError(
            f"the selection is on {selection.device} and the model on {device}: use selection.to({str(device)!r})"
        )
    return parameters


def _offsets(parameters: dict[str, nn.Parameter], touched: dict[str, Tensor]) -> list[int]:
    offsets = []
    before = 0
    for name, parameter in parameters.items():
        if name in touched:
            offsets.append(before)
        before += parameter.numel()
    return offsets


def _noise_scales(tensors: dict[str, Tensor], gaussian: Gaussian) -> list[float]:
    if not gaussian.relative:
        return [gaussian.std] * len(tensors)
    scales = [gaussian.std * rms for rms in rms_of(tensors)]
    for name, scale in zip(tensors, scales, strict=True):
        if not math.isfinite(scale):
            raise ValueError(f"parameter {name!r} holds NaN or infinity: noise relative to its rms is undefined")
    return scales


def _apply(
    tensors: dict[str, Tensor],
    indices: list[Tensor],
    draws: list[Initial],
    keep: list[float],
    seed: int,
    stream: int,
    offsets: list[int],
) -> None:
    held = Pieces(list(tensors.values()), indices)
    pieces = held.pieces
    ops.sparse_perturb_(
        [piece.memory for piece in pieces],
        [piece.index for piece in pieces],
        [draws[piece.number].draw for piece in pieces],
        [keep[piece.number] for piece in pieces],
        [draws[piece.number].shift for piece in pieces],
        [draws[piece.number].scale for piece in pieces],
        seed,
        stream,
        [offsets[piece.number] + piece.offset for piece in pieces],
    )
    held.write_back()


def _check_loader(perturbation: Perturbation, loader: Loader | None) -> None:
    if isinstance(perturbation, Ascent) and loader is None:
        raise ValueError("Ascent needs loader, the data to forget")


def _mean_gradients(
    model: nn.Module, parameters: dict[str, nn.Parameter], loader: Loader, loss_fn: LossFunction | None
) -> dict[str, Tensor]:
    with evaluation_mode(model):
        means = accumulate(model, parameters, loader, loss_fn or cross_entropy, "grad", "loader", False)
    for (name, mean), count in zip(means.items(), nonfinite_counts(means, parameters), strict=True):
        if count:
            raise ValueError(f"the gradient of {name!r} has {count} NaN or infinite values: the model is unchanged")
        means[name] = mean.to(parameters[name].dtype)
    return means
