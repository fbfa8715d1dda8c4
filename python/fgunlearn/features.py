"""Features inside a model: the input of a named layer, with its gradient, whatever else the model does."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fgunlearn.batches import Loader, device_of, evaluation_mode, moved, x_and_y


def penultimate_layer(model: nn.Module) -> str:
    """The name of the model's last ``nn.Linear`` that is called: its input is called the penultimate features.

    Raises:
        ValueError: it has none.
    """
    uncalled = uncalled_layers(model)
    names: list[str] = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module not in uncalled
    ]
    if not names:
        raise ValueError("the model has no nn.Linear to take penultimate features from: name a module with layer=")
    return names[-1]


def uncalled_layers(model: nn.Module) -> set[nn.Module]:
    """Linear layers that only hold weights: attention's output projection, which hooks never see."""
    return {module.out_proj for module in model.modules() if isinstance(module, nn.MultiheadAttention)}


class InputOf:
    """A function of a batch x: what the module ``layer`` of the model is given, float (batch, features).

    The model's parameters and buffers are constants to it (no gradient reaches them, and nothing of the model is
    changed but for what its own forward pass changes), while x gets its gradient. Put the model in the mode it is to
    be looked at in.

    Args:
        model: the model to look into.
        layer: name of one of its modules; the last ``nn.Linear`` when None.

    Raises:
        ValueError: no such layer, or none to be found; when called, a layer that the forward pass does not reach, or
            that is not given a tensor.
    """

    def __init__(self, model: nn.Module, layer: str | None = None) -> None:
        name = penultimate_layer(model) if layer is None else layer
        if name not in dict(model.named_modules()):
            raise ValueError(f"layer must name a module of the model, got {layer!r}")
        self._model, self._name = model, name
        self._constants = {key: value.detach() for key, value in (*model.named_parameters(), *model.named_buffers())}
        self._recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())

    def __call__(self, x: Tensor) -> Tensor:
        """Float (batch, features), in the precision that the model computes in."""
        taken: list[Tensor] = []

        def take(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            given = next(iter((*inputs, *named.values())), None)
            if not isinstance(given, Tensor) or given.dim() < 2:
                found = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
                raise ValueError(f"layer {self._name!r} must be given a tensor (batch, ...), got {found}")
            taken.append(given.flatten(1))

        handle = self._model.get_submodule(self._name).register_forward_pre_hook(take, with_kwargs=True)
        # cuDNN's recurrent layers have no gradient in eval mode; torch's own have.
        plain = self._recurrent and torch.is_grad_enabled() and x.requires_grad
        try:
            with torch.backends.cudnn.flags(enabled=False) if plain else contextlib.nullcontext():
                functional_call(self._model, self._constants, (x,))
        finally:
            handle.remove()
        if not taken:
            raise ValueError(f"layer {self._name!r} is not reached by the model's forward pass")
        return taken[-1]


@torch.no_grad()
def features_of(model: nn.Module, loader: Loader, layer: str | None = None) -> Tensor:
    """The input of ``layer`` over all ``(x, y)`` batches of a loader, in eval mode: float (samples, features).

    Raises:
        ValueError: as :class:`InputOf`; an empty loader.
        TypeError: batches that are not ``(x, y)``.
    """
    look, device = InputOf(model, layer), device_of(model)
    with evaluation_mode(model):
        taken = [look(moved(x_and_y(batch)[0], device)) for batch in loader]
    if not taken:
        raise ValueError("the loader is empty")
    return torch.cat(taken)
