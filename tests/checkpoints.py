"""Checkpoints written byte by byte: of dtypes that NumPy lacks, and with headers that no library would write."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from fgunlearn.checkpoint_files import WIDTHS


class Tensor(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    data: bytes


Tensors = Mapping[str, Tensor]


class Files(NamedTuple):
    """A checkpoint before and after, the patch between them, and the folder that holds these three and no more."""

    folder: Path
    base: Path
    new: Path
    patch: Path


def random_tensor(dtype: str, shape: Sequence[int], seed: int = 0) -> Tensor:
    size = math.prod(shape) * WIDTHS[dtype]
    return Tensor(dtype, tuple(shape), np.random.default_rng(seed).bytes(size))


def changed_at(tensor: Tensor, positions: Sequence[int], seed: int = 1) -> Tensor:
    """The same with other bits in just these elements."""
    values = np.frombuffer(tensor.data, np.uint8).reshape(-1, WIDTHS[tensor.dtype]).copy()
    flips = np.random.default_rng(seed).integers(1, 256, (len(positions), values.shape[1]), dtype=np.uint8)
    values[list(positions)] ^= flips
    return tensor._replace(data=values.tobytes())


def changed(tensors: Tensors, count: int = 3, seed: int = 1) -> dict[str, Tensor]:
    """The same with other bits in ``count`` elements of each, or in all of those that have no more."""
    generator = np.random.default_rng(seed)
    found = {}
    for name, tensor in tensors.items():
        numel = math.prod(tensor.shape)
        found[name] = changed_at(tensor, np.sort(generator.permutation(numel)[:count]).tolist(), seed)
    return found


def header_of(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> dict[str, Any]:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    begin = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, begin + len(data)]}
        begin += len(data)
    return header


def file_bytes(header: object, data: bytes, padding: int = 0) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode() + b" " * padding
    return len(text).to_bytes(8, "little") + text + data


def write(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None, padding: int = 0) -> Path:
    data = b"".join(tensor.data for tensor in tensors.values())
    path.write_bytes(file_bytes(header_of(tensors, metadata), data, padding))
    return path


def write_sharded(folder: Path, shards: Mapping[str, Tensors], stem: str = "model") -> Path:
    """The index of a checkpoint of several files, by their names."""
    folder.mkdir(exist_ok=True)
    for name, tensors in shards.items():
        write(folder / name, tensors, {"format": "pt"})
    index = folder / f"{stem}.safetensors.index.json"
    places = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}, indent=1))
    return index


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file in a folder and below it, hidden ones too; None for a folder. What a refusal must leave as it is."""
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in found}


@contextlib.contextmanager
def refused_unchanged(folder: Path, error: type[Exception], *parts: object) -> Iterator[None]:
    """That what follows is refused in one line that has these parts, and leaves a folder as it was, without litter."""
    before = contents(folder)
    with pytest.raises(error) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
    assert contents(folder) == before
