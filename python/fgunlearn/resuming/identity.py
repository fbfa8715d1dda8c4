"""Whether a call is the one that wrote a checkpoint: facts about its arguments, compared one by one."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Identity = dict[str, str]
"""By name of an argument, or of a part of one, a text that tells its value; a hash where that is long."""

_HASHED = "sha256:"


def digest(value: Any) -> str:
    """A hash of what a batch, or a sequence of batches, holds: tensors and arrays bit for bit, texts and numbers.

    Objects of other kinds count by their type alone.
    """
    total = hashlib.sha256()
    for part in _bytes_of(value):
        total.update(part)
    return _HASHED + total.hexdigest()


def digest_of_model(model: nn.Module) -> str:
    """A hash of all parameters, whether they require grad, and all buffers, by their names."""
    total = hashlib.sha256()
    for name, parameter in model.named_parameters():
        for part in (f"parameter {name} {parameter.requires_grad} ".encode(), *_bytes_of(parameter)):
            total.update(part)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        for part in (f"buffer {name} ".encode(), *_bytes_of(buffer)):
            total.update(part)
    return _HASHED + total.hexdigest()


def fields_of(name: str, value: object) -> Identity:
    """A value's text, and that of each field if it is a dataclass: a difference can be named by its field."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return {name: repr(value)}
    found = {name: type(value).__name__}
    for field in dataclasses.fields(value):
        found |= fields_of(f"{name}.{field.name}", getattr(value, field.name))
    return found


def name_of(function: object) -> str:
    """What a function is called; the type of an object that can be called. Neither has an address in it."""
    if function is None:
        return "None"
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"  # type: ignore[attr-defined]


def difference(was: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """The first fact that is not the same, in words; None where all are."""
    for name in dict.fromkeys([*now, *was]):
        before, after = was.get(name, "nothing"), now.get(name, "nothing")
        if before == after:
            continue
        if before.startswith(_HASHED) or after.startswith(_HASHED):
            return f"{name} is not what it was"
        return f"{name} was {before} and is {after}"
    return None


def _bytes_of(value: Any) -> Iterator[bytes | memoryview]:
    if isinstance(value, Tensor):
        yield f"tensor {value.dtype} {tuple(value.shape)} ".encode()
        if value.layout != torch.strided:
            value = value.to_dense()
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    elif isinstance(value, np.ndarray):
        yield f"array {value.dtype} {value.shape} ".encode()
        yield value.tobytes() if value.dtype != object else repr(value.tolist()).encode()
    elif isinstance(value, (str, bytes, int, float, complex, bool, type(None), np.generic)):
        text = repr(value).encode()
        yield f"{type(value).__name__} {len(text)} ".encode()
        yield text
    elif isinstance(value, Mapping):
        yield from _bytes_of_all(value, (part for item in value.items() for part in item))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _bytes_of_all(value, (getattr(value, field.name) for field in dataclasses.fields(value)))
    elif isinstance(value, Sequence):
        yield from _bytes_of_all(value, value)
    else:
        yield f"{type(value).__name__} ".encode()


def _bytes_of_all(whole: Any, parts: Iterable[Any]) -> Iterator[bytes | memoryview]:
    yield f"{type(whole).__name__} (".encode()
    for part in parts:
        yield from _bytes_of(part)
    yield b")"
