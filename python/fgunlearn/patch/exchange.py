"""Going through a tensor piece by piece, hashing what is there and what a patch makes of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fgunlearn import _host
from fgunlearn.checkpoint_files import PIECE, WIDTHS, CheckpointFiles, StoredTensor, WeightsFile, let_go, mapped, pieces
from fgunlearn.patch.format import Patch, TensorChange
from fgunlearn.patch.hashing import sha256_pair
from fgunlearn.patch.threads import Stop, for_each

Pair = tuple[StoredTensor, TensorChange]
Write = Callable[[memoryview, int], None]


@dataclass(frozen=True)
class Direction:
    """Forth, from a patch's base to its result, or back."""

    patch: Patch
    back: bool = False

    def ends(self, change: TensorChange) -> tuple[str, str]:
        """A tensor's hash before and after."""
        hashes = change.base_sha256, change.result_sha256
        return hashes[::-1] if self.back else hashes

    @property
    def start(self) -> str:
        """What the checkpoint is that it starts from."""
        return "result" if self.back else "base"

    @property
    def end(self) -> str:
        """What the checkpoint is that it ends with."""
        return "base" if self.back else "result"

    def exchange(self, file: memoryview, change: TensorChange) -> _host.Exchange:
        """What changes a tensor, from the patch's bytes; they must outlive it."""
        gaps, old, new = (self.patch.part(file, change.name, which) for which in ("gaps", "old", "new"))
        start, end = (new, old) if self.back else (old, new)
        return _host.Exchange(gaps, start, end, WIDTHS[change.dtype], change.numel)


def match(checkpoint: CheckpointFiles, patch: Patch) -> list[tuple[WeightsFile, list[Pair]]]:
    """The tensors of each file of a checkpoint with what a patch says of them.

    Raises:
        ValueError: they are not the same by name, dtype and shape; the first that differs is named.
    """
    changes = {change.name: change for change in patch.tensors}
    found: list[tuple[WeightsFile, list[Pair]]] = []
    for file in checkpoint.files:
        pairs = []
        for tensor in file.tensors:
            change = changes.pop(tensor.name, None)
            if change is None:
                raise ValueError(f"{checkpoint.path} has tensor {tensor.name!r}, which {patch.path} does not know")
            if (tensor.dtype, tensor.shape) != (change.dtype, change.shape):
                raise ValueError(
                    f"tensor {tensor.name!r} is {tensor.dtype} of shape {list(tensor.shape)} in {checkpoint.path}, "
                    f"{change.dtype} of {list(change.shape)} in {patch.path}"
                )
            pairs.append((tensor, change))
        found.append((file, pairs))
    if changes:
        raise ValueError(f"tensor {min(changes)!r} of {patch.path} is missing in {checkpoint.path}")
    return found


def walk_all(file: WeightsFile, pairs: Sequence[Pair], direction: Direction, write: Write | None = None) -> None:
    """:func:`walk` over all tensors of a file, several at a time."""
    with mapped(file.path, file.size) as source, direction.patch.mapped() as patch:

        def one(pair: Pair, stop: Stop) -> None:
            walk(source, *pair, direction, patch, stop, write)

        for_each(pairs, one)


def walk(
    source: memoryview,
    tensor: StoredTensor,
    change: TensorChange,
    direction: Direction,
    patch: memoryview,
    stop: Stop,
    write: Write | None = None,
) -> None:
    """Reads a tensor, makes of it what the patch says, and holds both against their hashes.

    Args:
        source: the bytes of the file that the tensor is in.
        tensor: where it is there.
        change: what the patch says of it.
        direction: forth or back.
        patch: the patch's bytes.
        stop: asked between pieces.
        write: takes the changed bytes and where they belong; None if they are only to be checked.

    Raises:
        ValueError: the tensor is not what the patch starts from, or does not become what it ends with.
    """
    expected = direction.ends(change)
    exchange = direction.exchange(patch, change) if change.changed else None
    held = np.empty(min(PIECE, tensor.end - tensor.begin) if exchange else 0, np.uint8)
    hashes = sha256_pair()
    wrong: ValueError | None = None
    for begin, end in pieces(tensor.begin, tensor.end, tensor.width):
        stop.check()
        with source[begin:end] as piece:
            out = piece
            if exchange is not None and wrong is None and exchange.next_changes((end - begin) // tensor.width):
                held[: end - begin] = np.frombuffer(piece, np.uint8)  # without the interpreter's lock
                out = held[: end - begin].data
                try:
                    exchange.put(out)
                except ValueError as error:
                    wrong = error  # the hash decides what is to blame: tensor or patch
            hashes.update(piece, out)
            if write is not None and wrong is None:
                write(out, begin)
        let_go(source, begin, end)
    before, after = hashes.hexdigests()
    if before != expected[0]:
        raise ValueError(
            f"tensor {tensor.name!r} is not the {direction.start} of {direction.patch.path}: its SHA-256 is "
            f"{before[:12]}..., the patch's is {expected[0][:12]}..."
        )
    if wrong is not None:
        raise ValueError(f"{direction.patch.path}: tensor {tensor.name!r}: {wrong}")
    if after != expected[1]:
        raise ValueError(
            f"{direction.patch.path} does not make of tensor {tensor.name!r} what it says: its SHA-256 would be "
            f"{after[:12]}..., the patch's {direction.end} has {expected[1][:12]}..."
        )


def written_whole(descriptor: int, data: memoryview, offset: int) -> None:
    """Writes bytes at an offset of a file, all of them.

    Raises:
        OSError: it can't, such as for lack of space.
    """
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)
