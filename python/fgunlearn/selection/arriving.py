"""Gradients one at a time: each is handed over the moment it is complete, and freed before the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from fgunlearn.batches import LossFunction, checked_loss

Receive = Callable[[int, Tensor], None]


def arriving_gradients(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], batch: object, loss_fn: LossFunction, receive: Receive
) -> None:
    """One forward and backward pass; ``receive(t, gradient)`` for each parameter that the loss reaches, once.

    The gradients are those of ``torch.autograd.grad(loss, parameters)``, in the order in which autograd finishes them;
    that of a tied parameter is the sum over its uses. ``.grad`` is neither read nor written, and hooks that wait for it
    to be accumulated (an optimizer's, DistributedDataParallel's) don't run.

    Args:
        model: passed on to ``loss_fn``.
        parameters: whose gradients; only what they need is computed.
        batch: passed on to ``loss_fn``.
        loss_fn: see :func:`fgunlearn.score`.
        receive: called with the parameter's position and its gradient, without gradient mode, on the caller's stream.
    """
    first = next(iter(parameters.values()))
    stream = torch.cuda.current_stream(first.device) if first.is_cuda else None
    with torch.enable_grad():
        loss = checked_loss(loss_fn(model, batch))
    handles = []
    try:
        for t, (name, parameter) in enumerate(parameters.items()):
            handles.append(parameter.register_hook(partial(_hand_over, receive, stream, t, name)))
        with torch.enable_grad():
            torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()


def _hand_over(
    receive: Receive, stream: torch.cuda.Stream | None, t: int, name: str, gradient: Tensor | None
) -> Tensor | None:
    if gradient is None:  # a custom function gave none: the loss does not reach the parameter
        return None
    if gradient.layout != torch.strided:
        raise TypeError(f"the gradient of {name!r} must be dense (strided), got layout {gradient.layout}")
    with torch.no_grad(), in_order_on(stream):
        receive(t, gradient.detach())
    # Autograd keeps what a hook returns for the caller: one zero in place of the gradient.
    return gradient.new_zeros(()).expand(gradient.shape)


@contextmanager
def in_order_on(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Work on ``stream``, after what is enqueued where autograd is, and before what it enqueues next.

    Autograd works on the stream on which a parameter was first used, which need not be the caller's.
    """
    if stream is None or (here := torch.cuda.current_stream(stream.device)) == stream:
        yield
        return
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        yield
    here.wait_stream(stream)


def sum_dtype(parameter: Tensor) -> torch.dtype:
    """In what the gradients of a parameter are added up."""
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


class Scratch:
    """Room to work in, the same memory each time: new memory for every gradient costs more than its scores."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held: dict[torch.dtype, Tensor] = {}

    def zeros(self, numel: int, dtype: torch.dtype) -> Tensor:
        """Zeros, 1-D, until the next call."""
        return self._room(numel, dtype).zero_()

    def copied(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """A 1-D tensor as another dtype, until the next call."""
        return self._room(tensor.numel(), dtype).copy_(tensor)

    def _room(self, numel: int, dtype: torch.dtype) -> Tensor:
        held = self._held.pop(dtype, None)
        if held is None or held.numel() < numel:
            held = None  # before the larger one is made
            held = torch.empty(numel, dtype=dtype, device=self._device)
        self._held[dtype] = held
        return held[:numel]
