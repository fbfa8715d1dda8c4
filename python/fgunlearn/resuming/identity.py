"""Whether a call is the one that wrote a checkpoint: facts about its arguments, compared one by one."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Identity = dict[str, str]
"""By name of an argument, or of a part of one, a text that tells its value; a hash where that is long."""

_HASHED = "sha256:"


def digest(value: Any, argument: str = "a batch") -> str:
    """A hash of what a batch, or a sequence of batches, holds: tensors and arrays bit for bit, texts and numbers.

    Objects of other kinds count by their type and by all that pickling would keep of them.

    Args:
        value: to be told from others.
        argument: what it is called in errors.

    Raises:
        TypeError: an object in it does not tell what it holds, so that another would be taken for it.
    """
    return _hash_of(_bytes_of(value, ()), argument)


def digest_of_batches(loader: Iterable[Any], argument: str) -> str:
    """The same of one pass over a loader, of which one batch at a time is held.

    Raises:
        TypeError: as :func:`digest`.
    """
    return _hash_of(_bytes_of_all("batches", loader, ()), argument)


def digest_of_model(model: nn.Module) -> str:
    """A hash of all parameters, whether they require grad, and all buffers, by their names; and of the ``repr``.

    So modules and options count that the ``repr`` shows, such as the p of dropout and the momentum of batch norm.
    """
    total = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", repr(model)).encode())  # without addresses
    for name, parameter in model.named_parameters():
        for part in (f"parameter {name} {parameter.requires_grad} ".encode(), *_bytes_of(parameter, ())):
            total.update(part)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        for part in (f"buffer {name} ".encode(), *_bytes_of(buffer, ())):
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


class _UntoldError(TypeError):
    """An object that does not tell what it holds."""


def _hash_of(parts: Iterable[bytes | memoryview], argument: str) -> str:
    total = hashlib.sha256()
    try:
        for part in parts:
            total.update(part)
    except (_UntoldError, RecursionError) as error:
        raise TypeError(
            f"checkpoint: {argument} holds {error}, which can't be told from another one of its kind: give tensors, "
            "arrays, texts, numbers, and objects of these that can be pickled"
        ) from error
    return _HASHED + total.hexdigest()


def _bytes_of(value: Any, around: tuple[int, ...]) -> Iterator[bytes | memoryview]:
    """What a value holds; ``around`` has the ids of the objects that it is in."""
    if isinstance(value, Tensor):
        yield from _bytes_of_tensor(value)
    elif isinstance(value, np.ndarray):
        yield f"array {value.dtype} {value.shape} ".encode()
        if value.dtype.hasobject:
            yield from _bytes_of(value.tolist(), around)
        else:
            yield value.tobytes()
    elif isinstance(value, (str, bytes, int, float, complex, bool, type(None), np.generic)):
        yield from _bytes_of_text(type(value).__name__, repr(value))
    elif id(value) in around:
        yield f"again {len(around) - around.index(id(value))} ".encode()  # an object that leads back to itself
    else:
        yield from _bytes_of_object(value, (*around, id(value)))


def _bytes_of_tensor(value: Tensor) -> Iterator[bytes | memoryview]:
    if value.is_nested:
        parts = value.unbind()
        yield f"nested {value.dtype} {len(parts)} ".encode()
        for part in parts:
            yield from _bytes_of_tensor(part)
        return
    yield f"tensor {value.dtype} {tuple(value.shape)} ".encode()
    if value.layout != torch.strided:
        value = value.to_dense()
    value = value.detach().cpu().resolve_conj().resolve_neg()
    yield value.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _bytes_of_text(kind: str, text: str) -> Iterator[bytes]:
    yield f"{kind} {len(text)} ".encode()
    yield text.encode(errors="surrogatepass")


def _bytes_of_object(value: Any, around: tuple[int, ...]) -> Iterator[bytes | memoryview]:
    kind = type(value).__name__
    if isinstance(value, Mapping):
        yield from _bytes_of_all(kind, (part for item in value.items() for part in item), around)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _bytes_of_all(kind, (getattr(value, field.name) for field in dataclasses.fields(value)), around)
    elif isinstance(value, Sequence):
        yield from _bytes_of_all(kind, value, around)
    elif isinstance(value, Set):  # in no order
        yield f"{kind} {sorted(_hash_of(_bytes_of(part, around), 'a set') for part in value)} ".encode()
    elif callable(value) and hasattr(value, "__qualname__"):
        yield from _bytes_of_text("named", name_of(value))
    else:
        try:
            kept = value.__reduce_ex__(4)
        except Exception as error:
            raise _UntoldError(f"a {kind}") from error
        # A function that makes it, its arguments, its state, and iterators over items.
        parts = (
            [kept] if isinstance(kept, str) else [list(part) if isinstance(part, Iterator) else part for part in kept]
        )
        yield from _bytes_of_all(kind, parts, around)


def _bytes_of_all(kind: str, parts: Iterable[Any], around: tuple[int, ...]) -> Iterator[bytes | memoryview]:
    yield f"{kind} (".encode()
    for part in parts:
        yield from _bytes_of(part, around)
    yield b")"
