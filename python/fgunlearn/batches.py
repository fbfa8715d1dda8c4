"""Batches of any form: how many samples one holds, and the default loss on ``(x, y)``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

LossFunction = Callable[[nn.Module, Any], Tensor]
Loader = Iterable[Any]
T = TypeVar("T")


def batch_size(batch: Any) -> int:
    """The number of samples: see :func:`known_size`.

    Raises:
        TypeError: the batch does not tell.
    """
    size = known_size(batch)
    if size is None:
        raise TypeError(f"a batch must hold a tensor whose first dimension is the batch, got {type(batch).__name__}")
    return size


def known_size(batch: Any) -> int | None:
    """The number of samples, as far as a batch tells; None if it does not.

    It is the first dimension of the first tensor or NumPy array in a batch of nested mappings, sequences and
    dataclasses; where there is none, the length of the first list of texts or numbers that is in no other list; 0 for
    an empty list.
    """
    size = next(_lengths(batch), None)
    if size is None and isinstance(batch, list) and not batch:
        return 0
    return next(_plain_lengths(batch), None) if size is None else size


def without_samples(batch: Any) -> bool:
    """Whether the batch is known to hold no sample: there are tensors in it, and none has any; or an empty list."""
    lengths = list(_lengths(batch))
    return not any(lengths) if lengths else known_size(batch) == 0


def _lengths(batch: Any) -> Iterator[int]:
    """The first dimensions of all tensors and arrays that have one."""
    if isinstance(batch, (Tensor, np.ndarray)):
        if batch.ndim > 0:
            yield batch.shape[0]
        return
    for part in _parts(batch):
        yield from _lengths(part)


def _plain_lengths(batch: Any) -> Iterator[int]:
    if isinstance(batch, list):  # lists in a list may be samples, or what there is of each
        if batch and all(isinstance(item, (str, int, float)) for item in batch):
            yield len(batch)
        return
    for part in _parts(batch):
        yield from _plain_lengths(part)


def _parts(batch: Any) -> Iterable[Any]:
    if isinstance(batch, (str, bytes)):  # whose parts are of their own kind, without end
        return ()
    if isinstance(batch, Mapping):
        return batch.values()
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    return batch if isinstance(batch, Sequence) else ()


def count_batches(loader: Loader, argument: str) -> int:
    """The number of batches of one pass.

    Args:
        loader: an iterable of batches; read where it has no length.
        argument: its name in errors.

    Raises:
        TypeError: not an iterable, or an iterator, which can be read only once.
        ValueError: no batch.
    """
    check_read_again(loader, argument)
    count = len(loader) if isinstance(loader, Sized) else sum(1 for _ in loader)
    if count == 0:
        raise ValueError(f"{argument} is empty: it has no batch")
    return count


def one_pass(loader: Iterable[Any], argument: str) -> Iterator[tuple[int, Any]]:
    """The batches of one pass and their places, 0 for the first. Batches without samples are left out: they have no
    loss, and so no gradient.

    Raises:
        ValueError: no batch, as of a loader that is used up, or no sample; the loader is called ``argument``.
    """
    place, nothing = -1, True
    for place, batch in enumerate(loader):
        if not without_samples(batch):
            nothing = False
            yield place, batch
    if nothing:
        raise ValueError(f"{argument} gave no {'batch' if place < 0 else 'sample'} when it was read again")


def check_read_again(loader: Loader, argument: str) -> None:
    """Refuses what can be read only once.

    Raises:
        TypeError: not an iterable, or an iterator.
    """
    if isinstance(loader, Iterator) or not (hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")):
        raise TypeError(
            f"{argument} must be an iterable that can be read again, like a list or a DataLoader, got {loader!r}"
        )


def x_and_y(batch: Any) -> tuple[Any, Tensor]:
    """The two halves of an ``(x, y)`` batch, y a tensor of class numbers.

    Raises:
        TypeError: the batch is of another form.
    """
    if isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[1], Tensor):
        return batch[0], batch[1]
    raise TypeError(
        f"this needs (x, y) batches with a tensor y, got {type(batch).__name__}; give loss_fn for other batches"
    )


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """Mean cross entropy of ``model(x)`` against class numbers ``y``: the default ``loss_fn``.

    Tensors on another device than the model's are moved to it.
    """
    x, y = x_and_y(batch)
    device = device_of(model)
    return F.cross_entropy(one_tensor(model(moved(x, device))), y.to(device))


def one_tensor(outputs: object) -> Tensor:
    """What a model returned, if that is a tensor; some return more than one in train mode.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"the default loss needs a model that returns logits, got {type(outputs).__name__}; give a loss_fn that "
            "knows what to do with it"
        )
    return outputs


def moved(x: Any, device: torch.device) -> Any:
    """``x`` on the device if it is a tensor; anything else is the model's own affair."""
    return x.to(device) if isinstance(x, Tensor) else x


def with_last(items: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """Each item, and whether it is the last: read one item ahead."""
    waiting: list[T] = []
    for item in items:
        if waiting:
            yield waiting.pop(), False
        waiting.append(item)
    for item in waiting:
        yield item, True


def checked_loss(loss: object) -> Tensor:
    """``loss`` if it is a scalar that can be differentiated.

    Raises:
        TypeError: not a tensor.
        ValueError: not a scalar, or without a graph.
    """
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss_fn must return a tensor, got {type(loss).__name__}")
    if loss.numel() != 1:
        raise ValueError(f"loss_fn must return a scalar, got shape {tuple(loss.shape)}")
    if not loss.requires_grad:
        raise ValueError(
            "loss_fn returned a loss without a graph: compute it from the model's parameters, with gradients enabled"
        )
    return loss.reshape(())


class evaluation_mode:
    """Context manager: the model in eval mode, every submodule back in the mode it had afterwards."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._training: dict[nn.Module, bool] = {}

    def __enter__(self) -> None:
        self._training = {module: module.training for module in self._model.modules()}
        self._model.eval()

    def __exit__(self, *error: object) -> None:
        for module, training in self._training.items():
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter; the CPU for a model without any."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def wait_for(device: torch.device) -> None:
    """Returns when the work enqueued on the device is done: before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def class_count(model: nn.Module, x: Any) -> int:
    """The number of logits the model gives per sample, by a look at the first sample of ``x``, in eval mode.

    An ``x`` that is no tensor goes through the model whole.

    Raises:
        ValueError: the model returns no logits of shape (batch, classes).
    """
    with evaluation_mode(model):
        logits = model(moved(x[:1] if isinstance(x, Tensor) else x, device_of(model)))
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"this needs a model that returns logits of shape (batch, classes), got {found}")
    return logits.shape[1]
