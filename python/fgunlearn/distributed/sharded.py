"""A selection of which each process holds the coordinates of its own part of the tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NoReturn

import torch
from torch import Tensor

from fgunlearn.distributed.agreement import agree, raise_together
from fgunlearn.distributed.identity import identity
from fgunlearn.distributed.layout import Layout, from_part, is_dtensor, layout_of
from fgunlearn.distributed.processes import Processes, processes_of
from fgunlearn.ops.select import index_dtype
from fgunlearn.selection.selection import Selection


class ShardedSelection(Selection):
    """k coordinates of tensors that are divided among processes.

    ``shapes``, ``numel``, ``counts``, ``k``, ``ratio`` and ``density()`` are those of the whole; ``indices`` are flat
    indices into this process's part of each tensor (of dtype int32 where the part has fewer than 2**31 elements), and
    ``layouts`` say where the parts lie. Each of ``|``, ``&``, ``-``, :meth:`full`, :meth:`save` and :meth:`shard` has
    to be called by all processes of the group; nothing else here communicates. Equality compares counts and a 128-bit
    hash of the whole selections, so that it has one answer everywhere, also for a selection sharded in another way or
    not at all.

    Not picklable: save it, or pickle what :meth:`full` returns. It is made by :func:`fgunlearn.select`,
    :func:`fgunlearn.topk` and :func:`fgunlearn.randomk`, or from an ordinary one by :meth:`Selection.shard`.
    """

    def __init__(
        self,
        layouts: Sequence[Layout],
        indices: Sequence[Tensor],
        processes: Processes,
        counts: Sequence[int],
        whole: Tensor,
        *,
        names: Sequence[str] | None = None,
        threshold: float | None = None,
        seed: int | None = None,
    ) -> None:
        self._shapes = tuple(layout.shape for layout in layouts)
        self._names = None if names is None else tuple(names)
        self._indices, self._threshold, self._seed = tuple(indices), threshold, seed
        self._layouts = tuple(layouts)
        self._processes = processes
        self._counts = tuple(counts)
        self._identity = whole

    @classmethod
    def of_parts(
        cls,
        layouts: Sequence[Layout],
        indices: Sequence[Tensor],
        processes: Processes,
        *,
        names: Sequence[str] | None = None,
        threshold: float | None = None,
        seed: int | None = None,
    ) -> ShardedSelection:
        """One whose parts the processes hold; they count together what it holds.

        Args:
            layouts: of this process's parts.
            indices: per tensor ascending flat indices into the part; every process that holds a part has the same.
            processes: all of which call this.
            names: as for :class:`Selection`.
            threshold: as for :class:`Selection`.
            seed: as for :class:`Selection`.
        """
        counted = [
            (t, layout.to_global(index))
            for t, (layout, index) in enumerate(zip(layouts, indices, strict=True))
            if layout.first
        ]
        sums = torch.zeros(len(layouts) + 2, dtype=torch.int64)
        for t, index in counted:
            sums[t] = len(index)
        sums[-2:] = identity(counted)
        sums = processes.sum(sums)
        return cls(
            layouts, indices, processes, sums[:-2].tolist(), sums[-2:], names=names, threshold=threshold, seed=seed
        )

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Per tensor where this process's part lies in the whole."""
        return self._layouts

    @property
    def processes(self) -> Processes:
        """The processes that hold the tensors."""
        return self._processes

    @property
    def identity(self) -> str:
        """A 128-bit hash of the whole selection, in hex: the same on all processes, and for every sharding."""
        return self._identity.numpy().tobytes().hex()

    @property
    def counts(self) -> tuple[int, ...]:
        """Per tensor the number of selected coordinates of all processes."""
        return self._counts

    def masks(self) -> list[Tensor]:
        """Per tensor a bool mask: a DTensor placed as the tensor is; of a plain tensor, one of this process's part."""
        masks: list[Tensor] = []
        for index, layout in zip(self._indices, self._layouts, strict=True):
            mask = torch.zeros(layout.local_numel, dtype=torch.bool, device=index.device)
            mask[index.long()] = True
            mask = mask.reshape(layout.local_shape)
            if layout.placements is not None:
                mask = from_part(mask, layout.shape, layout.mesh, layout.placements)
            masks.append(mask)
        return masks

    def full(self) -> Selection:
        """The same coordinates of whole tensors, on this selection's device; called by all processes.

        Sends 8 bytes per selected coordinate to every process.

        Raises:
            ValueError: the processes have different selections, or are about different operations.
        """
        self._meet("full")
        numels = [layout.numel for layout in self._layouts]
        parts = [torch.empty(0, dtype=torch.int64, device=self.device)]
        for layout, index, before in zip(self._layouts, self._indices, accumulate(numels, initial=0), strict=False):
            if layout.first:
                parts.append(layout.to_global(index) + before)
        everyones = torch.cat(self._processes.gather_ragged(torch.cat(parts))).sort().values
        ends = torch.tensor([0, *numels], device=everyones.device).cumsum(0)
        cuts = torch.searchsorted(everyones, ends).tolist()
        indices = [
            (everyones[cuts[t] : cuts[t + 1]] - ends[t]).to(index_dtype(numel)) for t, numel in enumerate(numels)
        ]
        return Selection.of_kernel(self._shapes, indices, names=self._names, threshold=self._threshold, seed=self._seed)

    def shard(self, model: Any) -> Selection:
        """Itself, if it is sharded as the model is; else the whole selection sharded so, called by all processes.

        Raises:
            TypeError, ValueError: see :meth:`Selection.shard`.
        """
        from fgunlearn.parameters import trainable

        self._meet("shard")
        parameters = trainable(model)
        if self._all_say(self.is_placed_as(parameters.values())):
            return self
        return self.full().shard(model)

    def is_placed_as(self, tensors: Sequence[Tensor] | Any) -> bool:
        """Whether each tensor has the layout that this selection's has, on this process."""
        tensors = list(tensors)
        return len(tensors) == len(self._layouts) and all(
            is_dtensor(tensor)
            and layout_of(tensor) == layout
            and tensor.device_mesh == layout.mesh
            # Two ways to place a small tensor may give this process the same part, and another one not.
            and tuple(tensor.placements) == layout.placements
            for tensor, layout in zip(tensors, self._layouts, strict=True)
        )

    def _meet(self, operation: str) -> None:
        """All processes are about the same operation on the same selection, or are told that they are not."""
        operation = f"ShardedSelection{'.' if operation.isalpha() else ' '}{operation}"
        agree(self._processes, operation, lambda: {"selection": self.identity})

    def _all_say(self, yes: bool) -> bool:
        """Whether every process says so: parts may be alike on one and not on another."""
        return int(self._processes.sum(torch.tensor([int(not yes)]))) == 0

    def to(self, device: torch.device | str) -> Selection:
        """The same selection with its indices on ``device``."""
        return self._replaced([index.to(device) for index in self._indices], self._threshold, self._seed)

    def _replaced(self, indices: Sequence[Tensor], threshold: float | None, seed: int | None) -> ShardedSelection:
        return ShardedSelection(
            self._layouts,
            indices,
            self._processes,
            self._counts,
            self._identity,
            names=self._names,
            threshold=threshold,
            seed=seed,
        )

    def _combine(self, other: object, operation: Callable[[Tensor, Tensor], Tensor], symbol: str) -> Any:
        if not isinstance(other, Selection):
            return NotImplemented
        self._refuse_different(other)
        self._meet(symbol)
        theirs = self._sharded_alike(other)
        pairs = zip(self._indices, theirs, strict=True)
        return ShardedSelection.of_parts(
            self._layouts, [operation(a, b.to(a.device)) for a, b in pairs], self._processes, names=self._names
        )

    def _sharded_alike(self, other: Selection) -> Sequence[Tensor]:
        """The other's coordinates in the parts that this one has."""
        if isinstance(other, ShardedSelection):
            if self._all_say(other._layouts == self._layouts):
                return other._indices
            other = other.full()
        return [index for _, index in _local(other, self._layouts)]

    def __ror__(self, other: object) -> Selection:
        return self | other  # type: ignore[operator]

    def __rand__(self, other: object) -> Selection:
        return self & other  # type: ignore[operator]

    def __rsub__(self, other: object) -> Selection:
        if not isinstance(other, Selection):
            return NotImplemented
        return shard(other, self._layouts, self._processes) - self

    def __eq__(self, other: object) -> bool:
        """The same coordinates of the same tensors, however either is sharded; threshold and seed don't count."""
        if not isinstance(other, Selection):
            return NotImplemented
        if self._shapes != other._shapes or self._names != other._names:
            return False
        if isinstance(other, ShardedSelection):
            return self._counts == other._counts and torch.equal(self._identity, other._identity)
        return self._counts == other.counts and torch.equal(self._identity, identity(enumerate(other._indices)))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        here = sum(index.numel() for index in self._indices)
        return (
            f"ShardedSelection(k={self.k}, n={self.numel}, ratio={self.ratio:.4g}, tensors={len(self._shapes)}, "
            f"here={here}, rank={self._processes.rank} of {self._processes.size})"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Gathers the selection, and the group's rank 0 writes it as :meth:`Selection.save` does; called by all.

        :meth:`Selection.load` reads it anywhere, and :meth:`Selection.shard` divides it again, among any processes.

        Raises:
            OSError: rank 0 can't write the file.
            RuntimeError: the same, on the other ranks.
        """
        self._meet("save")
        whole = self.full()
        error: Exception | None = None
        if self._processes.rank == 0:
            try:
                whole.save(path)
            except Exception as raised:
                error = raised
        raise_together(self._processes, error, f"save the selection to {path}")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Selection:
        """See :meth:`Selection.load`: what is read is not sharded."""
        return Selection.load(path)

    def __copy__(self) -> ShardedSelection:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ShardedSelection:
        return self  # immutable, and its process group can't be copied

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ShardedSelection belongs to running processes: save() it, or pickle what full() returns")


def shard(selection: Selection, layouts: Sequence[Layout], processes: Processes) -> ShardedSelection:
    """This process's part of a selection that every process has; without communication.

    Args:
        selection: of whole tensors.
        layouts: of this process's parts of these tensors.
        processes: that hold the parts.
    """
    return ShardedSelection(
        layouts,
        [index for _, index in _local(selection, layouts)],
        processes,
        selection.counts,
        identity(enumerate(selection.indices)),
        names=selection.names,
        threshold=selection.threshold,
        seed=selection.seed,
    )


def _local(selection: Selection, layouts: Sequence[Layout]) -> list[tuple[Tensor, Tensor]]:
    """Per tensor the positions of the selection's coordinates that are here, and their local flat indices."""
    held = []
    for index, layout in zip(selection.indices, layouts, strict=True):
        at, local = layout.to_local(index)
        held.append((at, local.to(index_dtype(layout.local_numel))))
    return held


def part_of(selection: Selection, position: int, tensor: Tensor, label: str) -> Tensor:
    """The flat indices that a selection has in one tensor; of a DTensor, in this process's part of it.

    Args:
        selection: of whole tensors, or sharded as these are.
        position: of the tensor in the selection.
        tensor: the one it was made for; its shape is not compared.
        label: its name in errors.

    Raises:
        TypeError, ValueError: see :func:`placed_as`.
    """
    index = selection.indices[position]
    if isinstance(selection, ShardedSelection):
        if not is_dtensor(tensor):
            raise ValueError(f"the selection is sharded, and {label} is no DTensor: use selection.full(), on all ranks")
        if layout_of(tensor, label) != selection.layouts[position]:
            raise ValueError(
                f"the selection is sharded in another way than {label}: use selection.shard(model), on all ranks"
            )
    elif is_dtensor(tensor):
        layout = layout_of(tensor, label)
        return layout.to_local(index)[1].to(index_dtype(layout.local_numel))
    return index


def placed_as(selection: Selection, tensors: Mapping[str, Tensor]) -> Selection:
    """The selection as the tensors are: of this process's parts where they are DTensors.

    Args:
        selection: of whole tensors, or sharded as these are.
        tensors: those it was made for; names and shapes are not compared.

    Raises:
        ValueError: it is sharded and the tensors are not, or in another way.
    """
    sharded = any(is_dtensor(tensor) for tensor in tensors.values())
    if isinstance(selection, ShardedSelection):
        if not sharded:
            raise ValueError(
                "the selection is sharded, and the model is not made of DTensors: use selection.full(), on all ranks"
            )
        if not selection.is_placed_as(tensors.values()):
            raise ValueError(
                "the selection is sharded in another way than the model: use selection.shard(model), on all ranks"
            )
        return selection
    if not sharded:
        return selection
    processes = processes_of({f"parameter {name!r}": tensor for name, tensor in tensors.items()})
    assert processes is not None
    layouts = [layout_of(tensor, f"parameter {name!r}") for name, tensor in tensors.items()]
    return shard(selection, layouts, processes)
