"""The selected coordinates: which k of a model's n parameters may change."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fgunlearn.files import replacing
from fgunlearn.ops.select import index_dtype
from fgunlearn.parameters import first_difference, trainable

_FORMAT = "fgunlearn.selection"
_FORMAT_VERSION = 1


class Selection:
    """k coordinates of a list of tensors, as sorted flat indices on one device. Immutable.

    Args:
        shapes: the shape of every tensor, selected from or not.
        indices: per tensor a 1-D int32 or int64 tensor of C-order flat indices, strictly ascending. They are converted
            to int32 where the tensor has fewer than 2**31 elements, else to int64.
        names: the parameters' names, for a selection made from a model; None for one made from a list of tensors.
        threshold: the smallest selected |score|, where there was one score for all tensors.
        seed: the seed of a random strategy.

    Raises:
        TypeError, ValueError: lengths or devices that differ, an index out of range, repeated or out of order, a wrong
            dtype.
    """

    def __init__(
        self,
        shapes: Sequence[Sequence[int]],
        indices: Sequence[Tensor],
        *,
        names: Sequence[str] | None = None,
        threshold: float | None = None,
        seed: int | None = None,
    ) -> None:
        self._shapes = tuple(tuple(int(size) for size in shape) for shape in shapes)
        self._names = None if names is None else tuple(names)
        if len(indices) != len(self._shapes):
            raise ValueError(f"indices has {len(indices)} tensors for {len(self._shapes)} shapes")
        if self._names is not None and len(self._names) != len(self._shapes):
            raise ValueError(f"names has {len(self._names)} entries for {len(self._shapes)} shapes")
        self._indices = tuple(
            _checked(index, _numel(shape), self._label(t))
            for t, (index, shape) in enumerate(zip(indices, self._shapes, strict=True))
        )
        for t, index in enumerate(self._indices):
            if index.device != self._indices[0].device:
                raise ValueError(
                    f"indices of tensor {self._label(t)} are on {index.device}, those before on {self.device}"
                )
        self._threshold = threshold
        self._seed = seed

    @classmethod
    def of_kernel(
        cls,
        shapes: Sequence[Sequence[int]],
        indices: Sequence[Tensor],
        *,
        names: Sequence[str] | None = None,
        threshold: float | None = None,
        seed: int | None = None,
    ) -> Selection:
        """One whose indices come straight from an op that selects, and are not looked at again.

        Looking costs a pass over them, and on CUDA a few waits of the host per tensor.
        """
        made = object.__new__(cls)
        made._shapes = tuple(tuple(int(size) for size in shape) for shape in shapes)
        made._names = None if names is None else tuple(names)
        made._indices, made._threshold, made._seed = tuple(indices), threshold, seed
        return made

    def _label(self, position: int) -> str:
        return repr(self._names[position]) if self._names is not None else f"number {position}"

    @property
    def names(self) -> tuple[str, ...] | None:
        """The parameters' names; None for a selection made from a plain list of tensors."""
        return self._names

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of every tensor."""
        return self._shapes

    @property
    def indices(self) -> list[Tensor]:
        """Per tensor its selected C-order flat indices: 1-D, ascending, int32 (int64 from 2**31 elements on)."""
        return list(self._indices)

    @property
    def threshold(self) -> float | None:
        """The smallest selected |score|; None where there is no single one."""
        return self._threshold

    @property
    def seed(self) -> int | None:
        """The seed of a random strategy; None for one that draws nothing."""
        return self._seed

    @property
    def counts(self) -> tuple[int, ...]:
        """Per tensor the number of selected coordinates."""
        return tuple(index.numel() for index in self._indices)

    @property
    def k(self) -> int:
        """The number of selected coordinates."""
        return sum(self.counts)

    @property
    def numel(self) -> int:
        """n, the number of coordinates there are."""
        return sum(_numel(shape) for shape in self._shapes)

    @property
    def ratio(self) -> float:
        """k / n; 0 where n is 0."""
        return self.k / self.numel if self.numel else 0.0

    @property
    def device(self) -> torch.device:
        """Where the indices lie."""
        return self._indices[0].device if self._indices else torch.device("cpu")

    def __len__(self) -> int:
        return self.k

    def masks(self) -> list[Tensor]:
        """Per tensor a bool tensor of its shape, True at the selected coordinates."""
        masks = []
        for index, shape in zip(self._indices, self._shapes, strict=True):
            mask = torch.zeros(_numel(shape), dtype=torch.bool, device=index.device)
            mask[index.long()] = True
            masks.append(mask.reshape(shape))
        return masks

    def density(self) -> dict[str, float]:
        """Share of each tensor that is selected, by name (by position for a list without names); 0 if it is empty."""
        return {
            self._names[t] if self._names is not None else str(t): count / _numel(shape) if _numel(shape) else 0.0
            for t, (count, shape) in enumerate(zip(self.counts, self._shapes, strict=True))
        }

    def to(self, device: torch.device | str) -> Selection:
        """The same selection with its indices on ``device``."""
        return self._with([index.to(device) for index in self._indices], self._threshold, self._seed)

    def with_threshold(self, threshold: float | None) -> Selection:
        """The same selection with another threshold."""
        return self._with(self._indices, threshold, self._seed)

    def _with(self, indices: Sequence[Tensor], threshold: float | None, seed: int | None) -> Selection:
        return Selection.of_kernel(self._shapes, indices, names=self._names, threshold=threshold, seed=seed)

    def full(self) -> Selection:
        """Itself: a selection sharded over processes returns that of whole tensors here."""
        return self

    def shard(self, model: nn.Module) -> Selection:
        """This process's part of the selection, where the model's parameters are DTensors; else the selection itself.

        Nothing is communicated: every process has to have the same selection. What takes a model and a selection
        (:func:`fgunlearn.perturb_`, :class:`fgunlearn.SparseOptimizer`) does this by itself.

        Returns:
            A :class:`fgunlearn.distributed.ShardedSelection`, on this selection's device.

        Raises:
            TypeError: a parameter with a placement other than Shard or Replicate.
            ValueError: the selection was made for another model.
        """
        from fgunlearn.distributed.sharded import placed_as

        parameters = trainable(model)
        difference = first_difference(self._names, self._shapes, parameters)
        if difference is not None:
            raise ValueError(f"the selection was made for another model: {difference}")
        return placed_as(self, parameters)

    def _refuse_different(self, other: Selection) -> None:
        if self._shapes != other._shapes or self._names != other._names:
            raise ValueError("the two selections are made for different tensors: their names or shapes differ")

    def _combine(self, other: object, operation: Callable[[Tensor, Tensor], Tensor], symbol: str) -> Any:
        """The operation on the indices of each tensor; ``symbol`` is its name."""
        if not isinstance(other, Selection):
            return NotImplemented
        self._refuse_different(other)
        pairs = zip(self._indices, other._indices, strict=True)
        return self._with([operation(a, b.to(a.device)) for a, b in pairs], None, None)

    def __or__(self, other: object) -> Selection:
        """Coordinates in either."""
        return self._combine(other, lambda a, b: torch.cat([a, b]).unique(), "|")

    def __and__(self, other: object) -> Selection:
        """Coordinates in both."""
        return self._combine(other, lambda a, b: a[torch.isin(a, b, assume_unique=True)], "&")

    def __sub__(self, other: object) -> Selection:
        """Coordinates in this one and not in the other."""
        return self._combine(other, lambda a, b: a[torch.isin(a, b, assume_unique=True, invert=True)], "-")

    def __eq__(self, other: object) -> bool:
        """The same coordinates of the same tensors; threshold and seed don't count."""
        if not isinstance(other, Selection):
            return NotImplemented
        return (
            self._shapes == other._shapes
            and self._names == other._names
            and all(torch.equal(a, b.to(a.device)) for a, b in zip(self._indices, other._indices, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Selection(k={self.k}, n={self.numel}, ratio={self.ratio:.4g}, tensors={len(self._shapes)})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file: the indices, and names, shapes, threshold and seed as metadata."""
        about = {
            "version": _FORMAT_VERSION,
            "names": self._names,
            "shapes": self._shapes,
            "threshold": None if self._threshold is None else float(self._threshold).hex(),
            "seed": self._seed,
        }
        tensors = {f"indices.{t}": index.cpu().contiguous() for t, index in enumerate(self._indices)}
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={_FORMAT: json.dumps(about)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Selection:
        """Reads what :meth:`save` wrote, onto the CPU.

        Raises:
            OSError: the file can't be read.
            ValueError: it is not a selection, is damaged, or was written by a newer version.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if _FORMAT not in metadata:
                    raise ValueError(f"{path} is a safetensors file, but not a saved Selection")
                about = json.loads(metadata[_FORMAT])
                if about["version"] > _FORMAT_VERSION:
                    raise ValueError(
                        f"{path} has selection format {about['version']}; this fgunlearn reads up to {_FORMAT_VERSION}"
                    )
                indices = [file.get_tensor(f"indices.{t}") for t in range(len(about["shapes"]))]
            threshold = about["threshold"]
            return cls(
                about["shapes"],
                indices,
                names=about["names"],
                threshold=None if threshold is None else float.fromhex(threshold),
                seed=about["seed"],
            )
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a readable selection file: {error}") from error


def _numel(shape: Sequence[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _checked(index: Tensor, numel: int, label: str) -> Tensor:
    if not isinstance(index, Tensor) or index.dtype not in (torch.int32, torch.int64) or index.dim() != 1:
        found = f"{index.dtype} of shape {tuple(index.shape)}" if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"indices of tensor {label} must be 1-D int32 or int64, got {found}")
    if index.numel():
        low, high = (int(v) for v in index.aminmax())
        if low < 0 or high >= numel:
            bad = low if low < 0 else high
            raise ValueError(f"index {bad} of tensor {label} is out of range: it has {numel} elements")
        if index.numel() > 1 and not bool((index[1:] > index[:-1]).all()):
            raise ValueError(f"indices of tensor {label} must ascend without repeats")
    return index.to(index_dtype(numel)).contiguous()
