"""The file: tensors and plain values in safetensors form, with a hash over all of them. Nothing in it is executed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fgunlearn.files import begun_beside, replacing
from fgunlearn.resuming.errors import CheckpointError

_FORMAT = "fgunlearn.checkpoint"
_VERSION = 2
_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64),
)


class _DamagedError(CheckpointError):
    """A file that does not hold what it has to."""


@dataclass
class Contents:
    """Tensors by name, and what JSON can hold by name; parts of it are other contents with a name before theirs.

    Attributes:
        tensors: by name.
        facts: by name.
        source: the file they are of, if they are.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    source: str = ""

    def put(self, name: str, part: Contents) -> None:
        """Takes a part in."""
        self.tensors |= {f"{name}/{key}": tensor for key, tensor in part.tensors.items()}
        self.facts[name] = part.facts

    def part(self, name: str) -> Contents:
        """What :meth:`put` took in."""
        prefix = f"{name}/"
        tensors = {key.removeprefix(prefix): t for key, t in self.tensors.items() if key.startswith(prefix)}
        with self.well_formed():
            return Contents(tensors, self.facts[name], self.source)

    @contextlib.contextmanager
    def well_formed(self) -> Iterator[None]:
        """What is taken inside must be there, and of its kind. Inside, nothing of the user's is called.

        Raises:
            ValueError: it is not; the file is named.
        """
        try:
            yield
        except (_DamagedError, torch.OutOfMemoryError):
            raise
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError) as error:
            told = " ".join(str(error).split())
            raise _DamagedError(f"{self.source} is a damaged checkpoint: {type(error).__name__}: {told}") from error


def check_storable(tensor: Tensor, name: str) -> None:
    """That a checkpoint can hold such a tensor.

    Raises:
        TypeError: it is not dense, or of a dtype that safetensors has no name for.
    """
    if tensor.layout != torch.strided or tensor.dtype not in _DTYPES:
        found = tensor.dtype if tensor.layout == torch.strided else tensor.layout
        raise TypeError(f"checkpoint: {name} is {found}, which a checkpoint can't hold")


def write(path: Path, contents: Contents) -> None:
    """Writes the file, replacing it at once.

    Raises:
        OSError: it can't be written; one that was there is as it was.
    """
    tensors = _apart(contents.tensors)
    text = json.dumps({"version": _VERSION, **contents.facts})
    metadata = {"format": _FORMAT, "described": text, "sha256": _hash(text, tensors)}
    try:
        with _locked(path.parent, fcntl.LOCK_SH), replacing(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise OSError(f"the checkpoint {path} can't be written: {error}") from error


def read(path: Path, kind: str) -> Contents:
    """What :func:`write` wrote, on the CPU.

    Args:
        path: of the file.
        kind: what the fact "kind" must be.

    Raises:
        ValueError: the file is no checkpoint of that kind, damaged, or of another version.
        OSError: it can't be read.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a checkpoint, or damaged: {error}") from error
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is a safetensors file, but not a checkpoint of a call")
    text = metadata.get("described", "")
    if metadata.get("sha256") != _hash(text, tensors):
        raise CheckpointError(f"{path} is a damaged checkpoint: its content does not have the hash that it names")
    found = Contents(tensors, {}, str(path))
    with found.well_formed():
        found.facts = json.loads(text)
        version, found_kind = found.facts["version"], found.facts["kind"]
    if version != _VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {version}, and this fgunlearn reads {_VERSION}: go on with the "
            "version that wrote it, or remove it to begin anew"
        )
    if found_kind != kind:
        raise CheckpointError(f"{path} is a checkpoint of {found_kind}, not of {kind}")
    with found.well_formed():
        if not all(isinstance(value, str) for value in found.facts["identity"].values()):
            raise TypeError("identity must be texts by name")
        if not isinstance(found.facts["step"], int):
            raise TypeError(f"step must be an int, got {found.facts['step']!r}")
    return found


def remove(path: Path) -> None:
    """Removes the file, if it is there, and what a process left that was killed as it wrote one."""
    path.unlink(missing_ok=True)
    remove_unfinished(path)


def remove_unfinished(path: Path) -> None:
    """Removes the temporary files of a process that was killed as it wrote: see :func:`fgunlearn.files.replacing`.

    Where a process writes a checkpoint in that folder just now, they stay for the next time.
    """
    try:
        with _locked(path.parent, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for left in begun_beside(path):
                left.unlink(missing_ok=True)
    except BlockingIOError:
        pass


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Tells those that write in a folder from those that clear up there; nobody else is kept out.

    Raises:
        BlockingIOError: it is locked, and was not to be waited for.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, and none in the memory of another, which safetensors refuses."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        held = tensor.detach().cpu().contiguous()
        storage = held.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != held.numel() * held.element_size():
            held = held.clone()
        seen.add(held.untyped_storage().data_ptr())
        apart[name] = held
    return apart


def _hash(text: str, tensors: dict[str, Tensor]) -> str:
    total = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
