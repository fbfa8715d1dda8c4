"""Which tensors of a model take part: every floating-point parameter that requires grad, tied tensors once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from fgunlearn import ops

SUPPORTED_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name to parameter, in ``named_parameters()`` order: the coordinates that selections index.

    Of a module that FSDP2 shards, the sharded parameters (DTensors), also where a forward pass has gathered them.

    Raises:
        TypeError: ``model`` is not a module, or a parameter is complex, quantised, sparse or of an unsupported dtype.
        ValueError: nothing requires grad, or the parameters lie on several devices.
    """
    from fgunlearn.distributed.layout import reshard  # which is above this module

    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    reshard(model)  # after a forward pass FSDP2 leaves a root module's parameters gathered, as plain tensors
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("model has no parameter that requires grad: nothing can be selected or updated")
    check_tensors(parameters, "parameter")
    return parameters


def buffers_of(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor | None]]:
    """Name, module and key of every buffer, and the buffer; of those that are None as well."""
    for prefix, module in model.named_modules():
        for key, buffer in module._buffers.items():
            yield (f"{prefix}.{key}" if prefix else key), module, key, buffer


def check_tensors(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuses tensors the kernels can't take, by name.

    Raises:
        TypeError: not a tensor, an unsupported dtype, or a layout that is not strided.
        ValueError: tensors on different devices, or on a device that this build has no kernels for.
    """
    device: torch.device | None = None
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{what} {name!r} must be a tensor, got {type(tensor).__name__}")
        if tensor.layout != torch.strided:
            raise TypeError(f"{what} {name!r} must be dense (strided), got layout {tensor.layout}")
        if tensor.dtype not in SUPPORTED_DTYPES:
            raise TypeError(
                f"{what} {name!r} must be float32, float64, float16 or bfloat16, got {str(tensor.dtype)[6:]}"
            )
        if device is None:
            device = tensor.device
        elif tensor.device != device:
            raise ValueError(f"{what} {name!r} is on {tensor.device}, but the ones before it are on {device}")
    if device is not None:
        _check_device(device, what, next(iter(tensors)))


def _check_device(device: torch.device, what: str, name: str) -> None:
    if device.type == "cpu" or (device.type == "cuda" and ops.BUILD_INFO["cuda_library"] is not None):
        return
    if device.type != "cuda":
        raise ValueError(
            f"fgunlearn has kernels for the CPU and CUDA, but {what} {name!r} is on {device}; move it with .to('cpu')"
        )
    why = ops.BUILD_INFO["cuda_error"] or "it was built without CUDA"
    raise ValueError(
        f"{what} {name!r} is on {device}, but this fgunlearn has kernels for the CPU only: {why}. Rebuild it with nvcc "
        "on the PATH and a torch that has CUDA, or move model and data with .to('cpu')"
    )


def shapes_of(tensors: Iterable[Tensor]) -> tuple[tuple[int, ...], ...]:
    """The shapes of the tensors, as plain tuples."""
    return tuple(tuple(t.shape) for t in tensors)


def first_difference(
    names: Sequence[str] | None,
    shapes: Sequence[tuple[int, ...]],
    parameters: Mapping[str, Tensor],
) -> str | None:
    """How a selection's names and shapes differ from a model's parameters, in words; None when they agree."""
    found = list(parameters.items())
    for position, shape in enumerate(shapes):
        label = repr(names[position]) if names is not None else f"number {position}"
        if position >= len(found):
            return f"it selects from tensor {label}, but the model has only {len(found)} trainable parameters"
        name, tensor = found[position]
        if names is not None and names[position] != name:
            return f"parameter {position} is {name!r} in the model and {names[position]!r} in the selection"
        if tuple(tensor.shape) != shape:
            return f"parameter {name!r} has shape {tuple(tensor.shape)} in the model and {shape} in the selection"
    if len(found) > len(shapes):
        return f"the model's parameter {found[len(shapes)][0]!r} is not in the selection"
    return None
