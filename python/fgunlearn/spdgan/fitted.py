"""What a fit leaves, in memory and on disk."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fgunlearn.files import replacing
from fgunlearn.spdgan import networks
from fgunlearn.spdgan.fit import History
from fgunlearn.spdgan.samples import UnitRange

_FORMAT = "fgunlearn.spdgan.1"
_NUMBERS = ("scale", "accuracy", "shifted_accuracy", "seconds")  # of what a fit leaves


@dataclass(frozen=True)
class Fitted:
    """What a fit leaves.

    Attributes:
        generator: in eval mode, without gradients, on the source model's device.
        range: of the data, per channel.
        sample_shape: what one sample looks like.
        scale: of eps and radius, in (0, 1]: how much of what was learned the accuracy budget allowed.
        accuracy: of the source model on the forget data as it is.
        shifted_accuracy: of the source model on the perturbed forget data.
        seconds: how long it took.
        history: of the training.
    """

    generator: nn.Module
    range: UnitRange
    sample_shape: tuple[int, ...]
    scale: float
    accuracy: float
    shifted_accuracy: float
    seconds: float
    history: History


def write(path: str | os.PathLike[str], configuration: dict[str, Any], fitted: Fitted) -> None:
    """Writes a safetensors file, replacing it at once; the configuration must be JSON.

    Raises:
        OSError: the file can't be written; one that was there is as it was.
    """
    tensors = {f"generator.{name}": t.contiguous().cpu() for name, t in fitted.generator.state_dict().items()}
    tensors |= {"range.low": fitted.range.low.cpu(), "range.high": fitted.range.high.cpu()}
    described = {
        "configuration": configuration,
        "fitted": {
            **{name: getattr(fitted, name) for name in _NUMBERS},
            "sample_shape": fitted.sample_shape,
            "history": dataclasses.asdict(fitted.history),
        },
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": _FORMAT, "described": json.dumps(described)})


def read(path: str | os.PathLike[str], device: torch.device) -> tuple[dict[str, Any], Fitted]:
    """The configuration and what the fit left, from what :func:`write` wrote; torch's random numbers stay as they were.

    Raises:
        ValueError: the file is not one of an SPDGAN, or damaged.
        OSError: it can't be read.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}")
        described = json.loads(metadata["described"])
        return described["configuration"], _fitted(described["configuration"], described["fitted"], tensors, device)
    except (SafetensorError, KeyError, TypeError, AttributeError, RuntimeError, ValueError, OverflowError) as error:
        raise damaged(path, error) from error


def damaged(path: str | os.PathLike[str], error: Exception) -> ValueError:
    """What to say of a file that is not one of an SPDGAN."""
    return ValueError(f"{path} is not a file of an SPDGAN, or damaged: {error}")


def _fitted(
    configuration: dict[str, Any], found: dict[str, Any], tensors: dict[str, Tensor], device: torch.device
) -> Fitted:
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} must hold finite float32 values")
    shape = tuple(found["sample_shape"])
    low, high = tensors["range.low"], tensors["range.high"]
    if low.shape != shape[:1] or high.shape != shape[:1] or not bool((low < high).all()):
        raise ValueError(f"its range, of shape {tuple(low.shape)}, is not one for samples of shape {shape}")
    numbers = {name: float(found[name]) for name in _NUMBERS}
    if not 0.0 < numbers["scale"] <= 1.0:
        raise ValueError(f"its scale is {numbers['scale']}")
    with torch.device("meta"):  # draws no weights, and takes no memory for a shape that the file does not hold
        generator = networks.generator(shape, configuration["width"], configuration["blocks"])
    prefix = "generator."
    weights = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    generator.load_state_dict(weights, assign=True)
    return Fitted(
        generator=generator.to(device).eval().requires_grad_(False),
        range=UnitRange(low, high).to(device),
        sample_shape=shape,
        **numbers,
        history=History(**found["history"]),
    )
