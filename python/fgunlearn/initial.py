"""The distribution a layer's parameters are drawn from when torch makes the layer (its ``reset_parameters``)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import init
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd


@dataclass(frozen=True)
class Initial:
    """``shift + scale * draw``: draw is N(0, 1), uniform on [0, 1), or nothing."""

    draw: Literal["none", "normal", "uniform"]
    shift: float = 0.0
    scale: float = 0.0


def _constant(value: float) -> Initial:
    return Initial("none", shift=value)


def _uniform(bound: float) -> Initial:
    return Initial("uniform", shift=-bound, scale=2.0 * bound)


def _from_fan_in(weight: Tensor) -> Initial:
    # kaiming_uniform_(a=sqrt(5)) has gain sqrt(1/3) and bound sqrt(3) * gain / sqrt(fan_in) = 1 / sqrt(fan_in).
    fan_in, _ = init._calculate_fan_in_and_fan_out(weight)
    return _uniform(1.0 / math.sqrt(fan_in) if fan_in > 0 else 0.0)


def _xavier(weight: Tensor) -> Initial:
    fan_in, fan_out = init._calculate_fan_in_and_fan_out(weight)
    return _uniform(math.sqrt(6.0 / (fan_in + fan_out)))


def _of_layer(layer: nn.Module, parameter: str) -> Initial | None:
    if isinstance(layer, (nn.Linear, _ConvNd)):
        return _from_fan_in(layer.weight)
    if isinstance(layer, (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)):
        return _constant(1.0 if parameter == "weight" else 0.0)
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        return Initial("normal", scale=1.0)
    if isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
        return _uniform(1.0 / math.sqrt(layer.hidden_size) if layer.hidden_size > 0 else 0.0)
    if isinstance(layer, nn.Bilinear):
        return _uniform(1.0 / math.sqrt(layer.in1_features))
    if isinstance(layer, nn.PReLU):
        return _constant(layer.init)
    if isinstance(layer, nn.MultiheadAttention) and parameter.endswith("proj_weight"):
        return _xavier(getattr(layer, parameter))
    if isinstance(layer, nn.MultiheadAttention) and parameter == "in_proj_bias":
        return _constant(0.0)
    return None


def initial_distribution(model: nn.Module, name: str) -> Initial:
    """Where torch draws the parameter ``name`` from.

    Raises:
        ValueError: the parameter belongs to a layer whose initial distribution is not known (the layer is named).
    """
    path, _, parameter = name.rpartition(".")
    layer = model.get_submodule(path)
    # torch zeroes an attention's output bias after making the layer that holds it.
    if parameter == "bias" and path and isinstance(model.get_submodule(path.rpartition(".")[0]), nn.MultiheadAttention):
        return _constant(0.0)
    found = _of_layer(layer, parameter)
    if found is None:
        raise ValueError(
            f"Reset does not know the initial distribution of {name!r}, a parameter of {type(layer).__name__}: "
            "use Gaussian or Zero, or select no coordinate of it"
        )
    return found
