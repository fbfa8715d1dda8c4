"""SHA-256 of every tensor of a checkpoint: of its bytes as a safetensors file holds them, in C order, little-endian.

A forget patch carries the same hashes, so that a patch and a record of the same change can be matched.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fgunlearn.selection import Selection

Fingerprint = dict[str, dict[str, Any]]
"""Per tensor: "dtype" and "shape" as safetensors names them, and "sha256" in hexadecimal."""

INDEX = ".index.json"
"""How the name of a sharded checkpoint's index ends."""


def fingerprint(checkpoint: nn.Module | Mapping[str, Tensor] | str | os.PathLike[str]) -> Fingerprint:
    """The hashes of all tensors, in the order of their names.

    Args:
        checkpoint: a model, of which parameters and persistent buffers count (its ``state_dict``); a state dict; or the
            path of a safetensors file, or of the index of a sharded one (``*.safetensors.index.json``), which is read
            without torch.

    Raises:
        TypeError: something that is no tensor, sharded over processes, or of a dtype that safetensors does not have.
        ValueError: a file that is no safetensors file, an index that names a file elsewhere.
        OSError: a file that can't be read.
    """
    if isinstance(checkpoint, (str, os.PathLike)):
        found = {name: entry for path in files_of(Path(checkpoint)) for name, entry in _of_file(path)}
    else:
        state = checkpoint if isinstance(checkpoint, Mapping) else checkpoint.state_dict()
        found = {name: of_tensor(tensor, name) for name, tensor in state.items()}
    return dict(sorted(found.items()))


def files_of(path: Path) -> list[Path]:
    """The safetensors files of a checkpoint: itself, or those that its index names, each once.

    Raises:
        ValueError: an index that is none, or that names a file in another folder.
        OSError: it can't be read.
    """
    if not path.name.endswith(INDEX):
        return [path]
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
        shards = sorted(set(names))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the index of a sharded checkpoint: {error}") from error
    for name in shards:
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".."):
            raise ValueError(f"{path} names the file {name!r}, which is not one of its own folder")
    return [path.parent / name for name in shards]


def of_tensor(tensor: Tensor, name: str) -> dict[str, Any]:
    """One tensor's dtype, shape and hash.

    Raises:
        TypeError: see :func:`fingerprint`.
    """
    return {
        "dtype": dtype_of(tensor, name),
        "shape": list(tensor.shape),
        "sha256": hashlib.sha256(memoryview(rows_of(tensor.detach().reshape(1, -1)).reshape(-1))).hexdigest(),
    }


def dtype_of(tensor: Tensor, name: str) -> str:
    """A tensor's dtype in safetensors' words.

    Raises:
        TypeError: it is no tensor, sharded over processes, or of a dtype that safetensors does not have.
    """
    import torch
    from torch.distributed.tensor import DTensor

    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name!r} must be a tensor, got {type(tensor).__name__}")
    if isinstance(tensor, DTensor):
        raise TypeError(f"{name!r} is sharded over processes: hash the checkpoint that was written of it")
    if tensor.dtype not in _dtypes():
        raise TypeError(f"{name!r} is {tensor.dtype}, which safetensors has no name for")
    return _dtypes()[tensor.dtype]


def rows_of(tensor: Tensor) -> Any:
    """The bytes of each row of a tensor, as a NumPy array uint8 (rows, bytes)."""
    import torch

    held = tensor.detach().cpu().contiguous()
    if held.numel() == 0:
        return torch.empty(len(held), 0, dtype=torch.uint8).numpy()
    return held.reshape(-1).view(torch.uint8).reshape(len(held), -1).numpy()


def changed_between(base: Path, result: Path) -> dict[str, int]:
    """Per tensor that both checkpoints have with one shape, how many values differ. NaN is NaN.

    Raises:
        ValueError, OSError: a file that can't be read.
    """
    return {name: int(changed.sum()) for name, changed in _changes(base, result)}


def changed_outside(base: Path, result: Path, selection: Selection) -> dict[str, int]:
    """Per selected-from tensor that both checkpoints have with one shape, how many values changed off the selection.

    Raises:
        ValueError, OSError: a file that can't be read; a selection without names.
    """
    if selection.names is None:
        raise ValueError("the selection has no names of parameters: it was made from a list of tensors")
    chosen = dict(zip(selection.names, zip(selection.indices, selection.shapes, strict=True), strict=True))
    counts = {}
    for name, changed in _changes(base, result):
        if name in chosen and tuple(changed.shape) == chosen[name][1]:
            changed.view(-1)[chosen[name][0].cpu().long()] = False
            counts[name] = int(changed.sum())
    return counts


def _changes(base: Path, result: Path) -> Iterator[tuple[str, Tensor]]:
    """Per tensor that both have with one shape, bool of that shape, contiguous: where values differ."""
    before, after = ({n: p for p in files_of(path) for n in _names(p)} for path in (base, result))
    for name in sorted(before.keys() & after.keys()):
        was, now = (_tensor(files[name], name) for files in (before, after))
        if was.shape == now.shape:
            yield name, ((was != now) & ~((was != was) & (now != now))).contiguous()


def _dtypes() -> dict[Any, str]:
    import torch

    return {
        torch.float64: "F64",
        torch.float32: "F32",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.int64: "I64",
        torch.int32: "I32",
        torch.int16: "I16",
        torch.int8: "I8",
        torch.uint8: "U8",
        torch.bool: "BOOL",
        torch.float8_e4m3fn: "F8_E4M3",
        torch.float8_e5m2: "F8_E5M2",
        torch.complex64: "C64",
    }


def _of_file(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    names = _names(path)  # the library looks whether header and size fit each other
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        start = 8 + int.from_bytes(mapped[:8], "little")
        header = json.loads(mapped[8:start])
        for name in names:
            about = header[name]
            low, high = about["data_offsets"]
            with memoryview(mapped) as whole, whole[start + low : start + high] as part:
                digest = hashlib.sha256(part).hexdigest()
            yield name, {"dtype": about["dtype"], "shape": about["shape"], "sha256": digest}


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="numpy") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error


def _tensor(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)
