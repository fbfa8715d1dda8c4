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
from fgunlearn.perturb import matched_parameters
from fgunlearn.selection.selection import Selection


def output_layer(model: nn.Module, x: Any, classes: int) -> nn.Linear | None:
    """The linear layer with an output per class whose output is the model's, for a batch x; None if there is none.

    Its output may be returned in another precision.
    """
    outputs: list[tuple[nn.Linear, Tensor]] = []

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Linear)
        outputs.append((module, output))

    layers = [each for each in model.modules() if isinstance(each, nn.Linear) and each.out_features == classes]
    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        with torch.no_grad(), evaluation_mode(model):
            logits = model(x)
    finally:
        for handle in handles:
            handle.remove()
    for layer, output in reversed(outputs):
        if output.shape == logits.shape and torch.equal(output.to(logits.dtype), logits):
            return layer
    return None


@torch.no_grad()
def forget_rows_(model: nn.Module, selection: Selection, x: Any, gone: Tensor, known: Tensor) -> None:
    """Makes the rows of forgotten classes the mean of the known ones', in the model's output layer, where selected.

    A model stays as it is whose output is not that of a linear layer with a row per class; or whose layer's weight is
    frozen, computed from other parameters (``torch.nn.utils.parametrizations``), or has several names, such as an
    embedding's: its rows may be more than a classifier's. Of a layer with a frozen bias only the weight changes.

    Args:
        model: changed in place; in the selected coordinates of those rows and nowhere else.
        selection: made for the model.
        x: a batch of inputs, on the model's device; one sample is enough.
        gone: bool (classes,), the classes that are forgotten as a whole.
        known: bool (classes,), those that the remaining data has; without any, nothing is changed.
    """
    if not bool(gone.any()) or not bool(known.any()):
        return
    layer = output_layer(model, x, len(known))
    weight = None if layer is None else layer._parameters.get("weight")
    if layer is None or weight is None or not weight.requires_grad or _names(model, weight) > 1:
        return
    parameters = matched_parameters(model, selection)
    for parameter, index in zip(parameters.values(), selection.indices, strict=True):
        if parameter is weight or parameter is layer._parameters.get("bias"):
            chosen = torch.zeros(parameter.numel(), dtype=torch.bool, device=parameter.device)
            chosen[index.long()] = True
            rows = chosen.view_as(parameter)[gone]
            parameter[gone] = torch.where(rows, parameter[known].mean(0), parameter[gone])


def _names(model: nn.Module, parameter: nn.Parameter) -> int:
    return sum(p is parameter for _, p in model.named_parameters(remove_duplicate=False))
