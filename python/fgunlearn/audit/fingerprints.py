"""SHA-256 of every tensor of a checkpoint: of its bytes as a safetensors file holds them, in C order, little-endian.

A forget patch carries the same hashes, so that a patch and a record of the same change can be matched.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open

from fgunlearn.audit.differences import DTYPES, differences
from fgunlearn.canonical_json import canonical
from fgunlearn.checkpoint_files import StoredTensor, WeightsFile, let_go, mapped, pieces, read_checkpoint
from fgunlearn.patch.locks import reading

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fgunlearn.selection import Selection

Fingerprint = dict[str, dict[str, Any]]
"""Per tensor: "dtype" and "shape" as safetensors names them, and "sha256" in hexadecimal."""

_Place = tuple[WeightsFile, StoredTensor]


def fingerprint(checkpoint: nn.Module | Mapping[str, Tensor] | str | os.PathLike[str]) -> Fingerprint:
    """The hashes of all tensors, in the order of their names.

    Args:
        checkpoint: a model, of which parameters and persistent buffers count (its ``state_dict``); a state dict; or the
            path of a safetensors file, or of the index of a sharded one (``*.safetensors.index.json``), which is read
            without torch.

    Raises:
        TypeError: something that is no tensor, sharded over processes, or of a dtype that safetensors does not have.
        ValueError: a file that is no safetensors file; an index that names a file elsewhere, or a tensor that is not
            where it says, or in two files.
        OSError: a file that can't be read.
    """
    if isinstance(checkpoint, (str, os.PathLike)):
        with _places(Path(checkpoint)) as places:
            found = {name: _of_place(place) for name, place in places.items()}
    else:
        state = checkpoint if isinstance(checkpoint, Mapping) else checkpoint.state_dict()
        found = {name: of_tensor(tensor, name) for name, tensor in state.items()}
    return dict(sorted(found.items()))


def fingerprint_hash(found: Fingerprint) -> str:
    """SHA-256 of a fingerprint's one JSON text, hexadecimal: one name for a whole checkpoint."""
    return hashlib.sha256(canonical(found)).hexdigest()


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


def changed_between(base: Path, result: Path) -> dict[str, tuple[int, int]]:
    """Per tensor that both checkpoints have with one shape, how many values differ, and how many differ in a bit.

    The former takes 0 for -0 and NaN for NaN, the latter does not, as forget patches don't.

    Raises:
        ValueError, OSError: a file that can't be read.
    """
    return {name: (int(values.sum()), int(bits.sum())) for name, values, bits in _changes(base, result)}


def changed_outside(base: Path, result: Path, selection: Selection) -> tuple[dict[str, int], list[str]]:
    """What changed in both checkpoints that is not selected.

    Returns:
        Per selected-from tensor that both have with one shape, how many values changed off the selection; and the names
        of the tensors with changed values that nothing was selected from.

    Raises:
        ValueError, OSError: a file that can't be read; a selection without names.
    """
    if selection.names is None:
        raise ValueError("the selection has no names of parameters: it was made from a list of tensors")
    chosen = dict(zip(selection.names, zip(selection.indices, selection.shapes, strict=True), strict=True))
    counts, others = {}, []
    for name, changed, _ in _changes(base, result):
        if name in chosen and tuple(changed.shape) == chosen[name][1]:
            changed.reshape(-1)[chosen[name][0].cpu().numpy()] = False
            counts[name] = int(changed.sum())
        elif bool(changed.any()):
            others.append(name)
    return counts, others


def same_weights(model: nn.Module, path: Path) -> bool:
    """Whether a model holds a checkpoint's tensors and no others, bit for bit after conversion to its own dtypes."""
    import torch

    state = model.state_dict()
    with _places(path) as places:
        if state.keys() != places.keys():
            return False
        for name, held in state.items():
            tensor = _tensor(places[name])
            if tensor.shape != held.shape:
                return False
            if not torch.equal(
                torch.from_numpy(rows_of(tensor.to(held.dtype)[None])), torch.from_numpy(rows_of(held[None]))
            ):
                return False
        return True


def _changes(base: Path, result: Path) -> Iterator[tuple[str, Any, Any]]:
    """Per tensor that both have with one shape, two bools of that shape, contiguous: where values, and bits, differ.

    They are NumPy arrays.
    """
    with _places(base) as before, _places(result) as after:
        for name in sorted(before.keys() & after.keys()):
            was, now = before[name][1], after[name][1]
            if was.shape != now.shape:
                continue
            if was.dtype == now.dtype and was.dtype in DTYPES:
                values, bits = differences(_bytes(before[name]), _bytes(after[name]), was.dtype)
            else:
                values, bits = _differences(_tensor(before[name]), _tensor(after[name]))
            yield name, values.reshape(was.shape), bits.reshape(was.shape)


def _differences(was: Tensor, now: Tensor) -> tuple[Any, Any]:
    """What :func:`differences` tells, of tensors of any dtypes; where those differ, bits are not looked at."""
    import torch

    values = ((was != now) & ~((was != was) & (now != now))).contiguous()
    bits = values
    if was.dtype == now.dtype:
        rows = (torch.from_numpy(rows_of(each.reshape(-1, 1))) for each in (was, now))
        bits = torch.ne(*rows).any(1)
    return values.numpy(), bits.numpy()


@contextlib.contextmanager
def _places(path: Path) -> Iterator[dict[str, _Place]]:
    """Where the tensors of a checkpoint are, which nobody changes in place meanwhile.

    Links are followed: nothing is written, and caches hold their files so.
    """
    found = read_checkpoint(path, links=True)
    with reading(found) as check:
        yield {tensor.name: (file, tensor) for file in found.files for tensor in file.tensors}
        check()


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


def _of_place(place: _Place) -> dict[str, Any]:
    file, tensor = place
    digest = hashlib.sha256()
    with mapped(file.path, file.size) as view:
        for begin, end in pieces(tensor.begin, tensor.end):
            digest.update(view[begin:end])
            let_go(view, begin, end)
    return {"dtype": tensor.dtype, "shape": list(tensor.shape), "sha256": digest.hexdigest()}


def _bytes(place: _Place) -> Any:
    file, tensor = place
    with mapped(file.path, file.size) as view:
        return np.frombuffer(view[tensor.begin : tensor.end], np.uint8)


def _tensor(place: _Place) -> Tensor:
    file, tensor = place
    with safe_open(file.path, framework="pt") as opened:
        return opened.get_tensor(tensor.name)
