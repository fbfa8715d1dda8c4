"""Weights rounded to few bits, as deployment often does: what of an unlearning is left of it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from fgunlearn.arguments import check_count


@torch.no_grad()
def quantized(model: nn.Module, bits: int = 8) -> nn.Module:
    """A copy whose weights are rounded to symmetric integers per channel, and back: w' = s round(w / s).

    s = max |w| / (2^(bits-1) - 1) over an output channel: a row of ``nn.Linear`` and ``nn.Embedding``, a filter of a
    convolution (of a transposed one, whose output channels are its second dimension, an entry there). Halves go to the
    even integer. Parameters of two dimensions or more are rounded, whether or not they require grad, tied ones once;
    biases, normalisation scales and buffers stay, as with weight-only int8. The arithmetic of the layers is not
    rounded.

    An unlearning that moves weights by less than half a step s is undone by this: source and unlearned model round to
    the same weights (Zhang et al., "Catastrophic failure of LLM unlearning via quantization", ICLR 2025, arXiv
    2410.16454, who find it at 4 bits more than at 8).

    Args:
        model: stays as it is.
        bits: of the integers, 2 to 8.

    Raises:
        TypeError: ``model`` is no module, or ``bits`` no int.
        ValueError: bits outside [2, 8]; a weight with a NaN or an infinite value (named).
    """
    steps = quantization_steps(model, bits)
    rounded = copy.deepcopy(model)
    parameters = dict(rounded.named_parameters())
    for name, step in steps.items():
        exact, largest = parameters[name].to(step.dtype), 2 ** (bits - 1) - 1
        codes = (exact / step).round().clamp(-largest, largest)
        parameters[name].copy_(torch.where(step > 0, codes * step, torch.zeros_like(exact)))
    return rounded


@torch.no_grad()
def quantization_steps(model: nn.Module, bits: int = 8) -> dict[str, Tensor]:
    """By parameter that :func:`quantized` rounds, the step s of each channel: positive, or 0 where all of it is.

    Float32, or float64 where the parameter is, of the parameter's shape with 1 for all dimensions but the channels'.

    Raises:
        TypeError, ValueError: as :func:`quantized`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    check_bits(bits)
    transposed = {module.weight for module in model.modules() if isinstance(module, _ConvTransposeNd)}
    steps = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 or parameter.numel() == 0 or not parameter.is_floating_point():
            continue
        if not bool(parameter.isfinite().all()):
            raise ValueError(f"{name!r} holds NaN or infinite values: there is nothing to round them to")
        exact = parameter if parameter.dtype == torch.float64 else parameter.float()
        channel = 1 if parameter in transposed else 0
        others = [d for d in range(parameter.dim()) if d != channel]
        steps[name] = exact.abs().amax(others, keepdim=True) / (2 ** (bits - 1) - 1)
    return steps


def check_bits(bits: object) -> None:
    """Refuses what weights can't be rounded to.

    Raises:
        TypeError, ValueError: not an int; outside [2, 8].
    """
    check_count(bits, "bits", low=2)
    assert isinstance(bits, int)
    if bits > 8:
        raise ValueError(f"bits must be <= 8, got {bits}")
