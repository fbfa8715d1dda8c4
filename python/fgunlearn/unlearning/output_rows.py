"""The rows of a classifier for classes that the remaining data lacks.

Only samples of its class ask for a class's logit to be large. So where the whole class is to be forgotten, its row of
the last layer is what the forgotten samples left there, and it answers to what the layers below still remember of them:
while it is driven down, it keeps telling the samples it was trained on from others of the class. It is not driven down
but forgotten at once: it becomes what is common to all rows, their mean, which asks for no class.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fgunlearn.batches import evaluation_mode
from fgunlearn.parameters import trainable
from fgunlearn.selection.selection import Selection


def output_layer(model: nn.Module, x: Any) -> nn.Linear | None:
    """The linear layer whose output is the model's, for a batch x; None if there is none."""
    outputs: list[tuple[nn.Linear, Tensor]] = []

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Linear)
        outputs.append((module, output))

    handles = [module.register_forward_hook(note) for module in model.modules() if isinstance(module, nn.Linear)]
    try:
        with torch.no_grad(), evaluation_mode(model):
            logits = model(x)
    finally:
        for handle in handles:
            handle.remove()
    return next((module for module, output in reversed(outputs) if output is logits), None)


@torch.no_grad()
def forget_rows_(model: nn.Module, selection: Selection, x: Any, gone: Tensor, known: Tensor) -> None:
    """Makes the rows of forgotten classes the mean of the known ones', in the model's output layer, where selected.

    A model whose output is not that of a linear layer with a row per class stays as it is, and so does a layer whose
    weight has several names: its rows may be more than a classifier's.

    Args:
        model: changed in place; in the selected coordinates of those rows and nowhere else.
        selection: made for the model.
        x: a batch of inputs, on the model's device.
        gone: bool (classes,), the classes that are forgotten as a whole.
        known: bool (classes,), those that the remaining data has; without any, nothing is changed.
    """
    if not bool(gone.any()) or not bool(known.any()):
        return
    layer = output_layer(model, x)
    if layer is None or layer.out_features != len(known) or _shared(model, layer):
        return
    parameters = trainable(model)
    for name, index in zip(selection.names, selection.indices, strict=True):
        parameter = parameters[name]
        if parameter is layer.weight or parameter is layer.bias:
            chosen = torch.zeros(parameter.numel(), dtype=torch.bool, device=parameter.device)
            chosen[index.long()] = True
            rows = chosen.view_as(parameter)[gone]
            parameter[gone] = torch.where(rows, parameter[known].mean(0), parameter[gone])


def _shared(model: nn.Module, layer: nn.Linear) -> bool:
    """Whether its weight is a parameter of other modules, too, such as an embedding."""
    return sum(p is layer.weight for _, p in model.named_parameters(remove_duplicate=False)) > 1
