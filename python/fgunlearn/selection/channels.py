"""Which coordinates of a model belong together: output channels, neurons, attention heads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from fgunlearn.parameters import trainable

_View = tuple[int, int, int, int]
_PER_CHANNEL: tuple[type[nn.Module], ...] = (_NormBase, nn.GroupNorm)  # act on dimension 1
_PER_FEATURE: tuple[type[nn.Module], ...] = (nn.LayerNorm, nn.RMSNorm)  # act on the last dimensions


@dataclass(frozen=True)
class Cells:
    """How one tensor is divided among channels.

    Attributes:
        view: (blocks, turns, width, run), whose product is the tensor's numel. In this shape, in C order, the element
            at (block, turn, place, _) is in the channel ``ids[block * width + place]``. Rows are (1, 1, rows, length).
        ids: int64 of shape (blocks * width,), no channel twice; empty for a tensor without elements.
    """

    view: _View
    ids: Tensor


@dataclass(frozen=True)
class Channels:
    """A partition of all coordinates of a list of tensors, numbered by each channel's smallest global index.

    Attributes:
        cells: one per tensor.
        sizes: int64 of shape (channels,), coordinates in each; none is 0.
        first: int64 of shape (channels,), the smallest global index of each, ascending.
    """

    cells: tuple[Cells, ...]
    sizes: Tensor
    first: Tensor

    def to(self, device: torch.device) -> Channels:
        """The same partition with its tensors on ``device``."""
        cells = tuple(replace(c, ids=c.ids.to(device)) for c in self.cells)
        return Channels(cells, self.sizes.to(device), self.first.to(device))


def rows_of(shapes: Sequence[Sequence[int]]) -> Channels:
    """Every row of every tensor's first dimension is a channel; a 0-d tensor is one."""
    return _Ledger({str(t): tuple(shape) for t, shape in enumerate(shapes)}).channels()


def channels_of(model: nn.Module) -> Channels:
    """The channels of a model's trainable parameters, in their order.

    A channel is, as far as it is trainable,

    - of a convolution (transposed too), ``nn.Linear`` or ``nn.Bilinear``: the weights and the bias of one output, and
      the scale and shift of it in the normalisation layer that directly follows;
    - of ``nn.MultiheadAttention``: one head, that is its rows of the projections to q, k and v, its part of their
      biases, and its columns of ``out_proj.weight``;
    - of another normalisation layer: the scale and shift of one of its channels;
    - of any other parameter: one row of its first dimension.

    A normalisation layer directly follows where it is the next module of an ``nn.Sequential`` and is as wide (batch,
    instance or group norm; layer and RMS norm after ``nn.Linear``). In other modules, whose order of computation can't
    be seen from here, it does where a batch, instance or group norm is registered right after a convolution as wide,
    and no convolution as wide right before the two, nor another norm as wide right after: that is how residual
    networks are written, in pre-activation too. Layers of transformers add and normalise in another order than they
    register, so no norm is counted to a linear layer there. A module that computes in yet another order gets a norm
    counted to the wrong convolution: that changes what is ranked together, and nothing else.

    A tied tensor belongs to the first layer that has it; the bias of another one joins it where its outputs are the
    same rows. A weight that torch computes from others (parametrizations,
    pruning) is not looked at; the parameters behind it are divided by rows.

    Raises:
        TypeError, ValueError: see :func:`fgunlearn.parameters.trainable`.
    """
    parameters = trainable(model)
    ledger = _Ledger({name: tuple(p.shape) for name, p in parameters.items()}, parameters)
    layers = list(model.modules())
    for layer in layers:
        if isinstance(layer, nn.MultiheadAttention):
            ledger.enter_heads(layer)
    outputs: dict[nn.Module, Tensor] = {}
    for layer in layers:
        if isinstance(layer, (nn.Linear, nn.Bilinear, _ConvNd)):
            outputs[layer] = ledger.enter_outputs(layer)
    for layer, norm in _followed(model):
        ledger.enter_norm(norm, outputs[layer])
    for layer in layers:
        if isinstance(layer, (*_PER_CHANNEL, *_PER_FEATURE)):
            ledger.enter_norm(layer, None)
    return ledger.channels()


class _Ledger:
    """Who has which parameter; the first entry counts."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], parameters: Mapping[str, Tensor] | None = None) -> None:
        self._shapes = shapes
        self._names = {id(p): name for name, p in (parameters or {}).items()}
        self._cells: dict[str, Cells] = {}
        self._count = 0

    def _new(self, count: int) -> Tensor:
        self._count += count
        return torch.arange(self._count - count, self._count)

    def _enter(self, parameter: Tensor | None, view: _View, ids: Tensor) -> None:
        name = self._names.get(id(parameter))
        # A layer that was cut to size by hand may not be what its attributes say.
        if name is not None and name not in self._cells and prod(view) == prod(self._shapes[name]):
            self._cells[name] = Cells(view, ids)

    def _enter_rows(self, parameter: Tensor | None, ids: Tensor) -> None:
        if parameter is not None and parameter.dim() > 0 and len(parameter) == len(ids):
            self._enter(parameter, (1, 1, len(ids), prod(parameter.shape[1:])), ids)

    def enter_heads(self, attention: nn.MultiheadAttention) -> None:
        heads, width = attention.num_heads, attention.head_dim
        ids = self._new(heads)
        own = attention._parameters
        for name, stacked in (
            ("in_proj_weight", 3),
            ("in_proj_bias", 3),
            ("q_proj_weight", 1),
            ("k_proj_weight", 1),
            ("v_proj_weight", 1),
            ("bias_k", 1),
            ("bias_v", 1),
        ):
            parameter = own.get(name)
            if parameter is not None:
                self._enter(parameter, (1, stacked, heads, parameter.numel() // (stacked * heads)), ids)
        out = attention.out_proj._parameters.get("weight")
        if out is not None:
            self._enter(out, (1, len(out), heads, width), ids)

    def enter_outputs(self, layer: nn.Module) -> Tensor:
        """The channels of the layer's outputs."""
        # Not layer.weight: computing a parametrised one may change the model (spectral norm).
        weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
        if isinstance(layer, _ConvTransposeNd) and weight is not None:
            inputs, outputs, *kernel = weight.shape
            ids = self._new(layer.groups * outputs)
            self._enter(weight, (layer.groups, inputs // layer.groups, outputs, prod(kernel)), ids)
        elif weight is not None:
            known = self._cells.get(self._names.get(id(weight), ""))
            tied = known is not None and known.view[:3] == (1, 1, len(weight))
            ids = known.ids if known is not None and tied else self._new(len(weight))
            self._enter_rows(weight, ids)
        else:
            ids = self._new(0 if bias is None else len(bias))
        self._enter_rows(bias, ids)
        return ids

    def enter_norm(self, norm: nn.Module, ids: Tensor | None) -> None:
        own = [norm._parameters.get(name) for name in ("weight", "bias")]
        if ids is None:
            ids = self._new(next((len(p) for p in own if p is not None), 0))
        for parameter in own:
            self._enter_rows(parameter, ids)

    def channels(self) -> Channels:
        cells = []
        for name, shape in self._shapes.items():
            if name not in self._cells:
                rows = shape[0] if shape else 1
                self._cells[name] = Cells((1, 1, rows, prod(shape[1:])), self._new(rows))
            cells.append(self._cells[name] if prod(shape) > 0 else Cells((0, 0, 0, 1), self._new(0)))
        n = sum(prod(c.view) for c in cells)
        sizes = torch.zeros(self._count, dtype=torch.int64)
        first = torch.full((self._count,), n)
        offset = 0
        for c in cells:
            blocks, turns, width, run = c.view
            starts = offset + torch.arange(blocks)[:, None] * (turns * width * run) + torch.arange(width) * run
            first[c.ids] = first[c.ids].minimum(starts.flatten())
            sizes[c.ids] += turns * run
            offset += prod(c.view)
        # In order of the first coordinate, without those that no trainable parameter has a part in.
        order = first.argsort()[: int((sizes > 0).sum())]
        number = torch.empty(self._count, dtype=torch.int64)
        number[order] = torch.arange(len(order))
        return Channels(tuple(replace(c, ids=number[c.ids]) for c in cells), sizes[order], first[order])


def _followed(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Layers and the normalisation layers that directly follow them."""
    for parent in model.modules():
        # Not children(), which leaves out a module's second place.
        children = list(parent._modules.values())
        in_order = type(parent).forward is nn.Sequential.forward
        for at, (layer, norm) in enumerate(itertools.pairwise(children)):
            if layer is None or norm is None or not _fits(layer, norm):
                continue
            before = children[at - 1] if at > 0 else None
            after = children[at + 2] if at + 2 < len(children) else None
            rivals = (isinstance(before, _ConvNd) and _fits(before, norm)) or (
                after is not None and _fits(layer, after)
            )
            if in_order or (isinstance(layer, _ConvNd) and not rivals):
                yield layer, norm


def _fits(layer: nn.Module, norm: nn.Module) -> bool:
    """Whether the norm has a scale or shift for each output of the layer."""
    if isinstance(layer, _ConvNd):
        width, kinds = layer.out_channels, _PER_CHANNEL
    elif isinstance(layer, nn.Linear):
        width, kinds = layer.out_features, (*_PER_CHANNEL, *_PER_FEATURE)
    else:
        return False
    return isinstance(norm, kinds) and any(p is not None and p.shape == (width,) for p in norm._parameters.values())
