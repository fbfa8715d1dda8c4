"""Checkpoints as they lie on disk: safetensors files, one or several with an index, read without torch and in place.

Whoever reads a file that somebody else made reads it here: every length, offset, dtype and name of a header is checked
before it is used.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgunlearn.canonical_json import parse

INDEX = ".index.json"
"""How the name of a sharded checkpoint's index ends."""

WIDTHS = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1},
    **{"I16": 2, "U16": 2, "F16": 2, "BF16": 2},
    **{"I32": 4, "U32": 4, "F32": 4},
    **{"F64": 8, "I64": 8, "U64": 8, "C64": 8},
}
"""Bytes per element, by dtype as safetensors names it."""

PIECE = 4 << 20
"""Bytes that are worked on at a time: what was read is let go again, so that memory stays small.

Pieces of 256 KiB, which stay in a core's second cache, took longer when measured.
"""

_LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library
_LARGEST_INDEX = 100_000_000


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its bytes are those from ``begin`` to ``end``, counted from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def width(self) -> int:
        """Bytes per element."""
        return WIDTHS[self.dtype]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return bounded_numel(self.shape)


@dataclass(frozen=True)
class WeightsFile:
    """A safetensors file: its tensors by offset, ``data`` where the first begins, and the header's metadata."""

    path: Path
    size: int
    data: int
    tensors: tuple[StoredTensor, ...]
    metadata: dict[str, str]


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of a checkpoint: ``path`` itself, or those that it names as the index of a sharded one."""

    path: Path
    files: tuple[WeightsFile, ...]

    @property
    def sharded(self) -> bool:
        """Whether ``path`` is an index."""
        return self.path.name.endswith(INDEX)

    def tensors(self) -> dict[str, StoredTensor]:
        """All tensors by name."""
        return {tensor.name: tensor for file in self.files for tensor in file.tensors}


def read_checkpoint(path: str | os.PathLike[str], *, links: bool = False) -> CheckpointFiles:
    """The tensors of a checkpoint and where they lie; no tensor is read.

    Args:
        path: of a safetensors file, or of the index of a sharded checkpoint (``*.safetensors.index.json``), whose files
            lie beside it.
        links: whether files that an index names may be symbolic links.

    Raises:
        ValueError: a file that is no safetensors file; an index that names a file elsewhere or a symbolic link, or a
            tensor that is not where it says, or in two files.
        OSError: a file that can't be read.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name its safetensors file, or its index (*{INDEX})")
    if not path.name.endswith(INDEX):
        return CheckpointFiles(path, (read_weights(path),))
    places = weight_map(path)
    files = []
    holders: dict[str, str] = {}
    for shard in sorted(set(places.values())):
        if not links and stat.S_ISLNK(os.lstat(path.parent / shard).st_mode):
            raise ValueError(f"{path} names {shard}, which is a symbolic link: the files themselves must lie beside it")
        files.append(read_weights(path.parent / shard))
        for tensor in files[-1].tensors:
            if tensor.name in holders:
                raise ValueError(f"{path}: tensor {tensor.name!r} is in both {holders[tensor.name]} and {shard}")
            holders[tensor.name] = shard
    for name in sorted(holders.keys() | places.keys()):
        if name not in places:
            raise ValueError(f"{path} does not name tensor {name!r}, which is in {holders[name]}")
        if holders.get(name) != places[name]:
            raise ValueError(f"{path} says that tensor {name!r} is in {places[name]}, but it is not")
    return CheckpointFiles(path, tuple(files))


def read_weights(path: Path) -> WeightsFile:
    """The header of one safetensors file.

    Raises:
        ValueError: it is no safetensors file, or damaged; it says how.
        OSError: it can't be read.
    """
    check_regular(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > min(size - 8, _LARGEST_HEADER):
            said = f"says that its header has {length} bytes" if len(prefix) == 8 else "has no header"
            raise ValueError(f"{path} is not a safetensors file, or cut off: it has {size} bytes and {said}")
        header = parse(file.read(length), f"the header of {path}")
    if not isinstance(header, dict):
        raise ValueError(f"the header of {path} is not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"the header of {path}: __metadata__ must hold strings")
    data = 8 + length
    tensors = sorted(
        (_stored(path, name, entry, data) for name, entry in header.items()), key=lambda t: (t.begin, t.end)
    )
    end = data
    for tensor in tensors:
        if tensor.begin != end:
            raise ValueError(
                f"the header of {path}: tensor {tensor.name!r} begins at byte {tensor.begin - data} of the data, "
                f"not at {end - data}, where the one before it ends"
            )
        end = tensor.end
    if end != size:
        raise ValueError(f"{path} is cut off or has more than its tensors: {size} bytes, its header says {end}")
    return WeightsFile(path, size, data, tuple(tensors), metadata)


def check_regular(path: Path) -> None:
    """That a path is a file's: opening a pipe would wait for its other end.

    Raises:
        ValueError: it is something else.
        OSError: there is nothing.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} is not a regular file")


def _stored(path: Path, name: str, entry: Any, data: int) -> StoredTensor:
    where = f"the header of {path}: tensor {name!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where} must have dtype, shape and data_offsets alone")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise ValueError(f"{where} has the dtype {dtype!r}, which is not known here")
    if not _counts(shape):
        raise ValueError(f"{where} has the shape {shape!r:.80}")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{where} has the offsets {offsets!r:.80}")
    begin, end = offsets
    if end - begin != bounded_numel(shape) * WIDTHS[dtype]:
        raise ValueError(f"{where} has {end - begin} bytes, which {dtype} of shape {shape!r:.80} has not")
    return StoredTensor(name, dtype, tuple(shape), data + begin, data + end)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(is_count(each) for each in value)


def is_count(value: Any) -> bool:
    """Whether what a JSON text said is a whole number from 0 to 2**53 - 1: larger ones are read as floats."""
    return type(value) is int and value >= 0


def bounded_numel(shape: Sequence[int]) -> int:
    """Number of elements of a shape that a file claims; beyond 2**63 just a number that is too large."""
    if 0 in shape:
        return 0
    numel = 1
    for size in shape:
        numel *= size
        if numel >= 2**63:  # or a list of many sizes would take forever to multiply
            break
    return numel


def weight_map(path: Path) -> dict[str, str]:
    """In which file of its folder an index says that each tensor is.

    Raises:
        ValueError: it is no index, or names a file elsewhere.
        OSError: it can't be read.
    """
    check_regular(path)
    if path.stat().st_size > _LARGEST_INDEX:
        raise ValueError(f"{path} is too large to be the index of a checkpoint")
    index = parse(path.read_bytes(), str(path))
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{path} is not the index of a sharded checkpoint: it has no weight_map")
    for shard in places.values():
        if not isinstance(shard, str) or Path(shard).name != shard or shard in ("", "..") or not shard.isprintable():
            raise ValueError(f"{path} names the file {shard!r:.80}, which is not one of its own folder")
    return places


@contextlib.contextmanager
def mapped(path: Path, size: int) -> Iterator[memoryview]:
    """The bytes of a file, read as they are looked at; not to be held on to.

    Args:
        path: the file.
        size: what it has to have; another one means that somebody is changing it.

    Raises:
        ValueError: the file has another size by now.
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != size:
            raise ValueError(f"{path} has changed while it was read")
        # Not closed but dropped: an error on its way up may still hold parts of it.
        yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")


def pieces(begin: int, end: int, width: int = 1) -> Iterator[tuple[int, int]]:
    """The bytes from ``begin`` to ``end`` in pieces of at most ``PIECE``, none of which splits an element."""
    step = PIECE // width * width
    while begin < end:
        yield begin, min(begin + step, end)
        begin += step


def let_go(view: memoryview, begin: int, end: int) -> None:
    """Gives back the memory of bytes of a mapped file that were read; they can be read again."""
    held = view.obj
    if isinstance(held, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        start = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
        stop = end // mmap.PAGESIZE * mmap.PAGESIZE
        if stop > start:
            held.madvise(mmap.MADV_DONTNEED, start, stop - start)
