"""The patch file: what is in it, how it is checked and how it is written. ``docs/patch-format.md`` is its description.

A patch is a safetensors file. Of each tensor that changes it has "<name>.gaps" (U8, where), "<name>.old" and
"<name>.new" (the values, in the tensor's dtype); its header's metadata has the hashes of all tensors before and after,
and one of the patch itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fgunlearn import _host
from fgunlearn.canonical_json import canonical, parse, plain
from fgunlearn.checkpoint_files import (
    WIDTHS,
    StoredTensor,
    WeightsFile,
    bounded_numel,
    is_count,
    let_go,
    mapped,
    pieces,
    read_weights,
)
from fgunlearn.files import replacing

FORMAT = "fgunlearn patch"
VERSION = 1

# The digest is of the whole file with zeros where it stands itself; it comes first, so that it always stands here.
_BEFORE_DIGEST = b'{"__metadata__":{"sha256":"'
_DIGEST_AT = 8 + len(_BEFORE_DIGEST)
_DIGEST_ZEROS = b"0" * 64
_METADATA = ("sha256", "format", "version", "tensors", "metadata")
_TENSOR = ("name", "dtype", "shape", "base_sha256", "result_sha256", "changed")
_LONGEST_GAP = 9  # bytes


@dataclass(frozen=True)
class TensorChange:
    """What a patch says of one tensor.

    Attributes:
        name: of the tensor, in the checkpoint.
        dtype: as safetensors names it.
        shape: of the whole tensor.
        base_sha256: of its bytes before, hexadecimal.
        result_sha256: of its bytes after.
        changed: how many of its values change.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    base_sha256: str
    result_sha256: str
    changed: int

    @property
    def numel(self) -> int:
        """Number of elements of the whole tensor."""
        return bounded_numel(self.shape)


@dataclass(frozen=True)
class Patch:
    """What a patch file says; it was checked against its own hash.

    Attributes:
        path: of the file.
        size: its bytes.
        sha256: of the file, hexadecimal, as ``sha256sum`` prints it.
        tensors: all tensors of the checkpoint, changed or not.
        metadata: what its maker wrote into it: plain data.
    """

    path: Path
    size: int
    sha256: str
    tensors: tuple[TensorChange, ...]
    metadata: dict[str, Any]
    _parts: Mapping[str, StoredTensor] = field(repr=False, compare=False)

    @property
    def changed(self) -> int:
        """How many values change."""
        return sum(tensor.changed for tensor in self.tensors)

    def mapped(self) -> AbstractContextManager[memoryview]:
        """The file's bytes."""
        return mapped(self.path, self.size)

    def part(self, file: memoryview, name: str, which: str) -> memoryview:
        """The bytes of "gaps", "old" or "new" of a tensor that changes, from the patch's bytes."""
        part = self._parts[f"{name}.{which}"]
        return file[part.begin : part.end]


def read_patch(path: str | os.PathLike[str]) -> Patch:
    """Reads and checks a patch file: its hash, and every name, dtype, count and position.

    Raises:
        ValueError: it is no patch, of a newer version, or damaged; it says how.
        OSError: it can't be read.
    """
    path = Path(path)
    file = read_weights(path)
    found = file.metadata
    if found.get("format") != FORMAT:
        raise ValueError(f"{path} is not a forget patch: its metadata does not say format {FORMAT!r}")
    version = found.get("version", "")
    if version != str(VERSION):
        newer = version.isdecimal() and len(version) < 10 and int(version) > VERSION
        what = f"newer than {VERSION}, the newest that this fgunlearn reads" if newer else f"not {VERSION}"
        raise ValueError(f"{path} has format version {version!r:.40}, {what}")
    if tuple(found) != _METADATA:
        raise ValueError(f"{path} is damaged: its metadata is {', '.join(found):.200}, not {', '.join(_METADATA)}")
    with mapped(path, file.size) as view:
        digest, sha256 = _digests(view)
        if found["sha256"] != digest or view[_DIGEST_AT : _DIGEST_AT + 64] != digest.encode():
            raise ValueError(
                f"{path} is damaged or was altered: its SHA-256 is {digest}, it says {found['sha256']!r:.80}"
            )
        tensors = _tensors(path, found["tensors"])
        metadata = _parsed(found["metadata"], f"the metadata of {path}")
        if not isinstance(metadata, dict):
            raise ValueError(f"the metadata of {path} is not an object")
        parts = _parts(path, file, tensors)
        patch = Patch(path, file.size, sha256, tensors, metadata, parts)
        for tensor in tensors:
            if tensor.changed:
                with patch.part(view, tensor.name, "gaps") as gaps:
                    try:
                        _host.check_gaps(gaps, tensor.changed, tensor.numel)
                    except ValueError as error:
                        raise ValueError(f"{path}: tensor {tensor.name!r}: {error}") from error
    return patch


def _parsed(text: str, what: str) -> Any:
    return parse(text.encode("utf-8", "surrogatepass"), what)  # which refuses a lone surrogate by name


def _tensors(path: Path, text: str) -> tuple[TensorChange, ...]:
    listed = _parsed(text, f"the tensors of {path}")
    if not isinstance(listed, list):
        raise ValueError(f"the tensors of {path} are not a list")
    found = []
    for entry in listed:
        if not isinstance(entry, dict) or entry.keys() != set(_TENSOR):
            raise ValueError(f"{path}: a tensor must have {', '.join(_TENSOR)}, got {entry!r:.200}")
        name, dtype, shape, changed = (entry[key] for key in ("name", "dtype", "shape", "changed"))
        hashes = entry["base_sha256"], entry["result_sha256"]
        where = f"{path}: tensor {name!r:.200}"
        if not isinstance(name, str):
            raise ValueError(f"{where}: a name must be a string")
        if not isinstance(dtype, str) or dtype not in WIDTHS:
            raise ValueError(f"{where} has the dtype {dtype!r:.80}, which is not known here")
        if not isinstance(shape, list) or not all(map(is_count, shape)) or bounded_numel(shape) >= 2**63:
            raise ValueError(f"{where} has the shape {shape!r:.80}")
        if not is_count(changed) or changed > bounded_numel(shape):
            raise ValueError(f"{where}: {changed!r:.80} of {bounded_numel(shape)} values can't change")
        if not all(isinstance(each, str) and _is_hash(each) for each in hashes):
            raise ValueError(f"{where}: base_sha256 and result_sha256 must be 64 hexadecimal digits")
        if (hashes[0] != hashes[1]) != (changed > 0):
            raise ValueError(f"{where}: {changed} values change, and its hashes are {hashes[0]} and {hashes[1]}")
        found.append(TensorChange(name, dtype, tuple(shape), *hashes, changed))
    if len({tensor.name for tensor in found}) < len(found):
        raise ValueError(f"{path} lists a tensor twice")
    return tuple(found)


def _parts(path: Path, file: WeightsFile, tensors: Iterable[TensorChange]) -> dict[str, StoredTensor]:
    """What the file holds of the tensors that change, which must be just what they need."""
    held = {part.name: part for part in file.tensors}
    parts = {}
    for tensor in tensors:
        for which in ("gaps", "old", "new") if tensor.changed else ():
            part = held.pop(f"{tensor.name}.{which}", None)
            if part is None:
                raise ValueError(f"{path}: tensor {tensor.name!r} changes, but there is no {tensor.name}.{which}")
            count = part.numel if which == "gaps" else tensor.changed
            dtype = "U8" if which == "gaps" else tensor.dtype
            if part.dtype != dtype or part.shape != (count,):
                raise ValueError(
                    f"{path}: {part.name} is {part.dtype} of shape {list(part.shape)}, not {dtype} of [{count}]"
                )
            if which == "gaps" and not tensor.changed <= count <= _LONGEST_GAP * tensor.changed:
                raise ValueError(f"{path}: {part.name} has {count} bytes for {tensor.changed} positions")
            parts[part.name] = part
    if held:
        raise ValueError(f"{path} holds {min(held)!r}, which belongs to no tensor that changes")
    return parts


def write_patch(
    path: str | os.PathLike[str],
    tensors: Iterable[TensorChange],
    parts: Mapping[str, Mapping[str, bytes]],
    metadata: str,
    mode: int,
) -> Patch:
    """Writes a patch file that can be read again, or none.

    Args:
        path: of the file.
        tensors: all tensors of the checkpoint.
        parts: of the tensors that change, by name: "gaps", "old" and "new".
        metadata: what else it says, from :func:`metadata_text`.
        mode: permissions of a new file, before the umask.

    Raises:
        ValueError: its header would be larger than readers take.
        OSError: it can't be written.
    """
    tensors = list(tensors)
    dtypes = {tensor.name: tensor.dtype for tensor in tensors}
    # Wide values first, bytes last: so all are aligned.
    order = sorted(
        (0 if which == "gaps" else -WIDTHS[dtypes[name]], name, which) for name, held in parts.items() for which in held
    )
    header: dict[str, Any] = {
        "__metadata__": {
            "sha256": _DIGEST_ZEROS.decode(),
            "format": FORMAT,
            "version": str(VERSION),
            "tensors": canonical([_as_data(tensor) for tensor in tensors]).decode(),
            "metadata": metadata,
        }
    }
    begin = 0
    for _, name, which in order:
        size = len(parts[name][which])
        dtype = "U8" if which == "gaps" else dtypes[name]
        header[f"{name}.{which}"] = {
            "dtype": dtype,
            "shape": [size // WIDTHS[dtype]],
            "data_offsets": [begin, begin + size],
        }
        begin += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    blocks = [len(text).to_bytes(8, "little") + text, *(parts[name][which] for _, name, which in order)]
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    head = bytearray(blocks[0])
    head[_DIGEST_AT : _DIGEST_AT + 64] = digest.hexdigest().encode()
    with replacing(path, mode) as temporary:
        with temporary.open("wb") as file:
            for block in [bytes(head), *blocks[1:]]:
                file.write(block)
        written = read_patch(temporary)
    return replace(written, path=Path(path))


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """A patch's metadata as it is written: JSON, with ints beyond 2**53 - 1, as seeds may be, as decimal strings.

    Raises:
        TypeError, ValueError: it is no plain data, or holds NaN or an infinity; it says where.
    """
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping, got {metadata!r:.80}")
    try:
        _check_plain(metadata, "metadata")
        return canonical(plain(metadata)).decode()
    except RecursionError as error:
        raise ValueError("metadata is nested too deeply") from error


def _check_plain(value: object, where: str) -> None:
    if isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str):
                raise TypeError(f"{where}: a name must be a string, got {name!r:.80}")
            _check_plain(item, f"{where}[{name!r}]")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _check_plain(item, f"{where}[{i}]")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}, which JSON has no word for")
    elif not isinstance(value, (bool, int, str, type(None))):
        raise TypeError(f"{where} is {value!r:.80}, a {type(value).__name__}: no plain data")


def _as_data(tensor: TensorChange) -> dict[str, Any]:
    return {key: list(tensor.shape) if key == "shape" else getattr(tensor, key) for key in _TENSOR}


def _digests(view: memoryview) -> tuple[str, str]:
    """The digest that the file should say, and the SHA-256 of the file as it is."""
    head = bytes(view[: _DIGEST_AT + 64])
    zeroed, as_it_is = hashlib.sha256(head[:_DIGEST_AT] + _DIGEST_ZEROS), hashlib.sha256(head)
    for begin, end in pieces(len(head), len(view)):
        with view[begin:end] as piece:
            zeroed.update(piece)
            as_it_is.update(piece)
        let_go(view, begin, end)
    return zeroed.hexdigest(), as_it_is.hexdigest()


def _is_hash(text: str) -> bool:
    return len(text) == 64 and not text.strip("0123456789abcdef")
