"""What a loop changes of a model, in a checkpoint: parameters, or the selected values of them, and buffers."""

from __future__ import annotations

import torch
from torch import nn

from fgunlearn import ops
from fgunlearn.parameters import buffers_of, trainable
from fgunlearn.resuming.file import Contents
from fgunlearn.selection import Selection


def of_model(model: nn.Module, selection: Selection | None) -> Contents:
    """Buffers, and of the parameters the selected values, or all without a selection."""
    parameters = {name: p.detach() for name, p in trainable(model).items()}
    values = list(parameters.values())
    if selection is not None:
        values = ops.sparse_gather(values, selection.indices)
    tensors = {f"parameters/{name}": value for name, value in zip(parameters, values, strict=True)}
    for name, _, _, buffer in buffers_of(model):
        if buffer is not None:
            tensors[f"buffers/{name}"] = buffer
    return Contents(tensors)


@torch.no_grad()
def load_model(model: nn.Module, selection: Selection | None, saved: Contents) -> None:
    """Goes to where a file says; the model has the same parameters."""
    parameters = trainable(model)
    values = [saved.tensors[f"parameters/{name}"].to(p.device) for name, p in parameters.items()]
    if selection is None:
        for p, value in zip(parameters.values(), values, strict=True):
            p.copy_(value)
    else:
        ops.sparse_scatter_([p.detach() for p in parameters.values()], selection.indices, values)
    held = {
        name.removeprefix("buffers/"): value for name, value in saved.tensors.items() if name.startswith("buffers/")
    }
    device = next(iter(parameters.values())).device
    for name, module, key, buffer in list(buffers_of(model)):
        kept = held.pop(name) if name in held else None
        if kept is None:
            module._buffers[key] = None
        elif buffer is not None and (kept.shape, kept.dtype) == (buffer.shape, buffer.dtype):
            buffer.copy_(kept)
        else:  # a forward pass had put another one there
            module._buffers[key] = kept.to(device if buffer is None else buffer.device)
    for name, value in held.items():  # that a forward pass had registered
        prefix, _, key = name.rpartition(".")
        model.get_submodule(prefix).register_buffer(key, value.to(device))
