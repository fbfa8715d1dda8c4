"""Making a patch: what differs, bit for bit, between two checkpoints."""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgunlearn import _host
from fgunlearn.checkpoint_files import (
    CheckpointFiles,
    StoredTensor,
    WeightsFile,
    let_go,
    mapped,
    pieces,
    read_checkpoint,
)
from fgunlearn.patch.format import Patch, TensorChange, metadata_text, write_patch
from fgunlearn.patch.hashing import sha256_pair
from fgunlearn.patch.journal import unfinished
from fgunlearn.patch.locks import reading
from fgunlearn.patch.threads import Stop, for_each

_Found = tuple[TensorChange, dict[str, bytes]]


def create(
    base: str | os.PathLike[str],
    new: str | os.PathLike[str],
    patch_file: str | os.PathLike[str],
    *,
    metadata: Mapping[str, Any] | None = None,
) -> Patch:
    """Writes the patch that makes one checkpoint of another.

    Both are read once; memory is about the size of the patch. Values are compared by their bits: 0 and -0 differ, NaN
    and the same NaN don't.

    Args:
        base: the checkpoint before: a safetensors file, or the index of a sharded one (``*.safetensors.index.json``).
        new: the checkpoint after, likewise, with the same tensors; it may be divided into files in another way.
        patch_file: where to write the patch; what is there is replaced.
        metadata: what else the patch shall say: plain data, such as strategy and seeds.

    Returns:
        The patch, as :func:`inspect` returns it.

    Raises:
        TypeError, ValueError: checkpoints that are not readable, or whose tensors differ in name, dtype or shape
            (named); metadata that is no plain data, or holds NaN; ``patch_file`` would replace what is read.
        OSError: a file can't be read or written. ``patch_file`` is then as it was.
    """
    text = metadata_text({} if metadata is None else metadata)
    before, after = read_checkpoint(base), read_checkpoint(new)
    check_target(Path(patch_file), "patch_file", before, after)
    with reading(before) as before_is_there, reading(after) as after_is_there:
        found = _differences(before, after)
        before_is_there()
        after_is_there()
    changes = [change for change, _ in found]
    parts = {change.name: held for change, held in found if change.changed}
    modes = [file.path.stat().st_mode for checkpoint in (before, after) for file in checkpoint.files]
    # It holds weights of both: who must not read one of them must not read this.
    return write_patch(patch_file, changes, parts, text, functools.reduce(operator.and_, modes, 0o666))


def _differences(before: CheckpointFiles, after: CheckpointFiles) -> list[_Found]:
    """Of all tensors; both checkpoints must have the same."""
    places = {tensor.name: (file, tensor) for file in after.files for tensor in file.tensors}
    pairs = [(file, tensor, *_partner(tensor, places, after)) for file in before.files for tensor in file.tensors]
    if places:
        raise ValueError(f"{after.path} has tensor {min(places)!r}, which {before.path} has not")
    return for_each(pairs, _difference)


def check_target(path: Path, argument: str, *read: CheckpointFiles) -> None:
    """That a file to be written is none of those that are read, and can be replaced.

    Raises:
        ValueError: it can't; argument and path are named.
    """
    if path.is_dir():
        raise ValueError(f"{argument}: {path} is a folder")
    if not path.parent.is_dir():
        raise ValueError(f"{argument}: there is no folder {path.parent}")
    for journal, _ in unfinished(path):  # which would later be taken for one of the new file
        raise ValueError(
            f"{argument}: a change of {path} in place is going on or was interrupted, {journal.name} says: bring it "
            "back with fgunlearn patch recover first, or remove both"
        )
    if path.exists():
        for checkpoint in read:
            for each in (checkpoint.path, *(file.path for file in checkpoint.files)):
                if each.exists() and path.samefile(each):
                    raise ValueError(f"{argument}: {path} is {each}, which is read")
        if not path.stat().st_mode & 0o222:
            raise ValueError(f"{argument}: {path} is read-only")


def _partner(
    tensor: StoredTensor, places: dict[str, tuple[WeightsFile, StoredTensor]], after: CheckpointFiles
) -> tuple[WeightsFile, StoredTensor]:
    """The tensor of the same name, which is taken out; it must be alike."""
    if tensor.name not in places:
        raise ValueError(f"tensor {tensor.name!r} is missing in {after.path}")
    file, other = places.pop(tensor.name)
    for about in ("dtype", "shape"):
        was, now = getattr(tensor, about), getattr(other, about)
        if was != now:
            shown = (list(was), list(now)) if about == "shape" else (was, now)
            raise ValueError(f"tensor {tensor.name!r} has {about} {shown[1]} in {after.path}, {shown[0]} before")
    return file, other


def _difference(pair: tuple[WeightsFile, StoredTensor, WeightsFile, StoredTensor], stop: Stop) -> _Found:
    """One tensor's hashes and differences. Up to the first of them there is one hash, not two."""
    file, tensor, other_file, other = pair
    differences = _host.Differences(tensor.width)
    hashes, differ = sha256_pair(), False
    with mapped(file.path, file.size) as base, mapped(other_file.path, other_file.size) as new:
        shift = other.begin - tensor.begin
        for begin, end in pieces(tensor.begin, tensor.end, tensor.width):
            stop.check()
            with base[begin:end] as old_values, new[begin + shift : end + shift] as new_values:
                differ |= differences.add(old_values, new_values)
                hashes.update(old_values, new_values if differ else old_values)
            let_go(base, begin, end)
            let_go(new, begin + shift, end + shift)
    change = TensorChange(tensor.name, tensor.dtype, tensor.shape, *hashes.hexdigests(), differences.count)
    return change, {
        "gaps": differences.gaps,
        "old": differences.old_values,
        "new": differences.new_values,
    }
