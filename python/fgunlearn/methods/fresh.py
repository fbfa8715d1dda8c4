"""What a model looked like before any training: initial weights and statistics, as a function of a seed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fgunlearn.parameters import trainable
from fgunlearn.seeding import seeded


@dataclass(frozen=True)
class Fresh:
    """Initial values by name: of the trainable parameters, and of all buffers."""

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]


def fresh(model: nn.Module, new_model: Callable[[], nn.Module] | None, seed: int) -> Fresh:
    """The initial values of ``new_model()``, or of the model's layers by their own ``reset_parameters``.

    Either draws from torch's CPU generator under the seed. Only trainable parameters are for the caller to take. A
    buffer that no ``reset_parameters`` sets, such as a table of positions, stays as the model has it. The model is not
    touched.

    Raises:
        TypeError: ``new_model`` can't be called, or returns no module.
        ValueError: it returns another architecture (the first difference is named), or without it a layer has trainable
            parameters and no ``reset_parameters``, or one that leaves some as they are.
    """
    if new_model is not None and not callable(new_model):
        raise TypeError(f"new_model must be a function that makes an untrained model, or None, got {new_model!r}")
    with seeded(seed):
        made = _reset_copy(model) if new_model is None else new_model()
    if not isinstance(made, nn.Module):
        raise TypeError(f"new_model must return a torch.nn.Module, got {type(made).__name__}")
    values = Fresh(
        {name: p.detach() for name, p in made.named_parameters()},
        {name: buffer.detach() for name, buffer in made.named_buffers()},
    )
    for what, wanted, found in (
        ("parameter", trainable(model), values.parameters),
        ("buffer", dict(model.named_buffers()), values.buffers),
    ):
        for name, tensor in wanted.items():
            if name not in found:
                raise ValueError(f"new_model() has no {what} {name!r}, but the model has")
            if found[name].shape != tensor.shape:
                raise ValueError(
                    f"{what} {name!r} has shape {tuple(tensor.shape)} in the model and {tuple(found[name].shape)} in "
                    "new_model()"
                )
    return values


def _reset_copy(model: nn.Module) -> nn.Module:
    """A copy on the CPU, where the seed's draws are the same for every device, all layers as if just made."""
    made = copy.deepcopy(model).cpu()
    started = {name: p for name, p in made.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in started.values():
            parameter.fill_(math.nan)
    for name, layer in reversed(list(made.named_modules())):  # a layer has its say after the layers it is made of
        reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
        if callable(reset):
            reset()
        elif any(p.requires_grad for p in layer.parameters(recurse=False)):
            raise ValueError(
                f"{name or 'the model'!r}, a {type(layer).__name__}, has parameters of its own and no reset_parameters "
                "to start over with: give new_model, a function that makes an untrained model"
            )
    for name, parameter in started.items():
        if bool(parameter.isnan().any()):  # a value that training has left, such as an adapter's or a pruned layer's
            raise ValueError(
                f"no layer's reset_parameters sets {name!r} anew: give new_model, a function that makes an untrained "
                "model"
            )
    return made
