"""Labelled images in memory: reading, splitting, batching. Everything random is a function of a seed."""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

HELDOUT_SHARE = 0.1  # of all samples where there is no test set of the data's own, else of its training samples
TEST_SHARE = 0.2


class Batches:
    """An iterable of ``(x, y)`` batches of tensors in memory, to be read again and again.

    Without a seed the samples keep their order. With one, the p-th pass has the order that (seed, p) give, so two
    objects made alike give the same batches. Reading is an ``index_select``; there are no worker processes.

    Args:
        x: samples first, any dtype, on any device.
        y: one label per sample, on that device.
        size: samples per batch.
        seed: of the order; None for the samples' own order.
        drop_last: leave an incomplete last batch out, unless it is the only one.
        prepare: applied to the x of every batch.

    Raises:
        ValueError: size below 1, or x and y of different lengths.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        size: int,
        *,
        seed: int | None = None,
        drop_last: bool = False,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if size < 1:
            raise ValueError(f"size must be >= 1, got {size}")
        if len(x) != len(y):
            raise ValueError(f"x and y must have one row per sample, got {len(x)} and {len(y)}")
        self._x, self._y = x, y
        self._size = size
        self._seed = seed
        self._drop_last = drop_last
        self._prepare = prepare
        self._passes = 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self._y), self._size)
        return whole + (rest > 0 and not (self._drop_last and whole > 0))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._seed is None:
            order = torch.arange(len(self._y))
        else:
            generator = torch.Generator().manual_seed((self._seed << 20) + self._passes)
            order = torch.randperm(len(self._y), generator=generator)
            self._passes += 1
        order = order.to(self._x.device)
        for start in range(0, len(self) * self._size, self._size):
            chosen = order[start : start + self._size]
            x = self._x.index_select(0, chosen)
            yield x if self._prepare is None else self._prepare(x), self._y.index_select(0, chosen)

    def state_dict(self) -> dict[str, int]:
        """Where it is between two passes, for a :class:`fgunlearn.Checkpoint`."""
        return {"passes": self._passes}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes to where :meth:`state_dict` was taken."""
        self._passes = state["passes"]


@dataclass(frozen=True)
class Samples:
    """Images (n, channels, h, w), uint8 or float32, labels int64 (n,), and what to normalise by (1, channels, 1, 1)."""

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: Tensor) -> Samples:
        """Those of an int64 index or a bool mask, in order."""
        return Samples(self.images[chosen], self.labels[chosen], self.mean, self.std)

    def relabelled(self, labels: Tensor) -> Samples:
        """The same images with other labels."""
        return Samples(self.images, labels, self.mean, self.std)

    def batches(self, size: int, *, seed: int | None = None, drop_last: bool = False) -> Batches:
        """``(x, y)`` batches, x float32 and normalised; see :class:`Batches`."""
        return Batches(self.images, self.labels, size, seed=seed, drop_last=drop_last, prepare=self._normalised)

    def _normalised(self, images: Tensor) -> Tensor:
        return images.to(torch.float32).sub_(self.mean).div_(self.std)


@dataclass(frozen=True)
class Dataset:
    """Labelled images as read: uint8 or float32 (n, channels, h, w), int64 (n,), and where a test set begins.

    ``test_from`` is the index of the first sample of the data's own test set; None where it has none.
    """

    images: Tensor
    labels: Tensor
    test_from: int | None = None

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of images, labels and where the test set begins."""
        digest = hashlib.sha256(f"{self.test_from}".encode())
        for tensor in (self.images, self.labels):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Writes a safetensors file that :func:`read` reads as "tensors:PATH", mapped into memory: decoded once.

        Raises:
            OSError: it can't be written.
        """
        tensors = {"images": self.images.contiguous(), "labels": self.labels}
        if self.test_from is not None:
            tensors["test_from"] = torch.tensor(self.test_from)
        try:
            save_file(tensors, path)
        except SafetensorError as error:
            raise OSError(f"can't write {path}: {error}") from error


@dataclass(frozen=True)
class Split:
    """What a model is trained on, what no model is ever trained on, and what it is tested on.

    ``rows`` are the numbers of the training samples in the data, int64, ascending: sample i of ``train`` is row
    ``rows[i]``.
    """

    train: Samples
    heldout: Samples
    test: Samples
    classes: int
    rows: Tensor


def load(source: str, seed: int, limit: int | None = None, keep: Tensor | None = None) -> Split:
    """Reads the data (once in a process) and splits it, see :func:`read` and :func:`split`."""
    return split(read_once(source), seed, limit, keep)


def split(data: Dataset, seed: int, limit: int | None = None, keep: Tensor | None = None) -> Split:
    """Train 70, held-out 10, test 20 percent, stratified by class, another split for every seed.

    Where the data has a test set of its own, that is the test part for every seed, and 10 percent of the rest is held
    out. Images are normalised by the training part's mean and standard deviation per channel.

    Args:
        data: what to split.
        seed: of the split.
        limit: keep at most this many training samples, stratified, and the same share of the others; None for all.
        keep: rows that are training samples whatever the seed says, int64; beyond the limit, too.

    Raises:
        ValueError: limit below the number of classes; a row to keep that the data does not have, or that belongs to its
            own test set.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = int(data.labels.max()) + 1
    everything = torch.arange(len(data.labels))
    if data.test_from is None:
        test = _stratified(everything, data.labels, TEST_SHARE, generator)
        heldout_share = HELDOUT_SHARE / (1.0 - TEST_SHARE)
    else:
        test = everything >= data.test_from
        heldout_share = HELDOUT_SHARE
    heldout = _stratified(everything[~test], data.labels, heldout_share, generator)
    kept = torch.zeros(len(data.labels), dtype=torch.bool)
    if keep is not None:
        end = len(data.labels) if data.test_from is None else data.test_from
        outside = keep[(keep < 0) | (keep >= end)]
        if len(outside):
            raise ValueError(f"row {int(outside[0])} can't be kept: the data has {end} rows that may be trained on")
        kept[keep] = True
        test, heldout = test & ~kept, heldout & ~kept
    train = ~test & ~heldout
    if limit is not None and limit < int(train.sum()):
        if limit < classes:
            raise ValueError(f"limit must be at least the number of classes, {classes}, got {limit}")
        share = limit / int(train.sum())
        train, heldout, test = (
            _stratified(everything[part], data.labels, share, generator) for part in (train, heldout, test)
        )
        train |= kept
    mean, std = _moments(data.images[train])
    whole = Samples(data.images, data.labels, mean, std)
    return Split(whole.take(train), whole.take(heldout), whole.take(test), classes, everything[train])


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, float32 (1, channels, 1, 1); summed in parts, in float64."""
    sums = torch.zeros(2, images.shape[1], dtype=torch.float64)
    for part in torch.split(images, 4096):
        exact = part.double()
        sums += torch.stack([exact.sum((0, 2, 3)), exact.square().sum((0, 2, 3))])
    mean, square = sums / (images.numel() // images.shape[1])
    std = (square - mean.square()).clamp_min(1e-12).sqrt()
    return mean.float().reshape(1, -1, 1, 1), std.float().reshape(1, -1, 1, 1)


def _stratified(candidates: Tensor, labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A bool mask over all samples with the share of the candidates of each class, rounded, at least one of each."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in torch.unique(labels[candidates]):
        of_class = candidates[labels[candidates] == label]
        count = min(len(of_class), max(1, round(share * len(of_class))))
        chosen[of_class[torch.randperm(len(of_class), generator=generator)[:count]]] = True
    return chosen


def read(spec: str) -> Dataset:
    """Reads the data a word on the command line names.

    Args:
        spec: "digits", scikit-learn's 1,797 images of 8x8; "cifar10:PATH", PATH a folder with
            ``cifar10_jpeg_train.npz`` and ``cifar10_jpeg_test.npz`` or with torchvision's ``cifar-10-batches-py``; or
            "tensors:FILE", a safetensors file with ``images`` (n, channels, h, w), uint8 or float32, ``labels`` int64
            (n,), and where the data has its own test set ``test_from``, the number of the first sample in it.

    Raises:
        ValueError: an unknown word, or files that are not what they should be.
        OSError: a path that does not exist.
        ImportError: a package that reading needs is missing; the message says which to install.
    """
    name, _, path = spec.partition(":")
    if name == "digits" and not path:
        return _digits()
    if name == "cifar10" and path:
        folder = Path(path)
        if not folder.is_dir():
            raise FileNotFoundError(f"data: {folder} is not a folder")
        if (folder / _JPEG_FILES[0]).exists():
            return _cifar10_jpeg(folder)
        if (folder / "cifar-10-batches-py").is_dir():
            return _cifar10_torchvision(folder)
        raise FileNotFoundError(f"data: {folder} holds neither {_JPEG_FILES[0]} nor cifar-10-batches-py")
    if name == "tensors" and path:
        return _tensors(Path(path))
    raise ValueError(f"data must be 'digits', 'cifar10:PATH' or 'tensors:FILE', got {spec!r}")


@functools.lru_cache(maxsize=1)
def read_once(spec: str) -> Dataset:
    """:func:`read`, for as long as the same data is asked for."""
    return read(spec)


def _digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits data needs scikit-learn: pip install 'fgunlearn[eval]'") from error
    digits = load_digits()
    images = torch.from_numpy((digits.images / 16.0).astype(np.float32))[:, None]
    return Dataset(images, torch.from_numpy(digits.target.astype(np.int64)))


def _tensors(path: Path) -> Dataset:
    if not path.is_file():
        raise FileNotFoundError(f"data: {path} is not a file")
    try:
        tensors = load_file(path)
        images, labels, test_from = tensors["images"], tensors["labels"], tensors.get("test_from")
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is not a safetensors file with images and labels: {error}") from error
    if images.dim() != 4 or labels.shape != images.shape[:1] or labels.dtype != torch.int64 or len(labels) == 0:
        raise ValueError(
            f"{path} must hold images of shape (n, channels, h, w) and int64 labels of shape (n,), n >= 1, got "
            f"{tuple(images.shape)} and {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if images.dtype not in (torch.uint8, torch.float32) or images.shape[1] == 0:
        raise ValueError(
            f"{path}: images must be uint8 or float32 with a channel or more, got {images.dtype} of shape "
            f"{tuple(images.shape)}"
        )
    if not bool(images.isfinite().all()):
        raise ValueError(f"{path}: images hold NaN or infinity")
    if int(labels.min()) < 0:
        raise ValueError(f"{path}: labels must be >= 0, got {int(labels.min())}")
    if int(labels.max()) == 0:
        raise ValueError(f"{path}: labels must name two classes or more, all are 0")
    if test_from is not None and (test_from.numel() != 1 or not 0 < int(test_from) < len(labels)):
        raise ValueError(f"{path}: test_from must be one number in (0, {len(labels)}), got {test_from.tolist()}")
    return Dataset(images, labels, None if test_from is None else int(test_from))


_JPEG_FILES = ("cifar10_jpeg_train.npz", "cifar10_jpeg_test.npz")


def _cifar10_jpeg(folder: Path) -> Dataset:
    try:
        from PIL import Image  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImportError("decoding the JPEG images needs Pillow: pip install 'fgunlearn[images]'") from error
    images, labels = [], []
    for name in _JPEG_FILES:
        path = folder / name
        with np.load(path) as arrays:  # each access reads the whole array: once
            missing = {"jpeg", "offsets", "labels"} - set(arrays.files)
            if missing:
                raise ValueError(f"{path} has no array {sorted(missing)[0]!r}")
            jpeg, offsets, of_part = arrays["jpeg"].tobytes(), arrays["offsets"].tolist(), arrays["labels"]
        if len(offsets) != len(of_part) + 1 or offsets[-1] > len(jpeg):
            raise ValueError(f"{path} is damaged: {len(of_part)} labels, {len(offsets)} offsets, {len(jpeg)} bytes")
        decoded = np.empty((len(of_part), 32, 32, 3), np.uint8)
        for i, (start, end) in enumerate(itertools.pairwise(offsets)):
            decoded[i] = np.asarray(Image.open(io.BytesIO(jpeg[start:end])).convert("RGB"))
        images.append(torch.from_numpy(decoded).permute(0, 3, 1, 2))
        labels.append(torch.from_numpy(of_part.astype(np.int64)))
    return Dataset(torch.cat(images).contiguous(), torch.cat(labels), test_from=len(labels[0]))


def _cifar10_torchvision(folder: Path) -> Dataset:
    try:
        from torchvision.datasets import CIFAR10
    except ImportError as error:
        raise ImportError("torchvision's CIFAR-10 folder needs torchvision: pip install 'fgunlearn[vision]'") from error
    parts = [CIFAR10(str(folder), train=train, download=False) for train in (True, False)]
    images = torch.cat([torch.from_numpy(part.data).permute(0, 3, 1, 2) for part in parts])
    labels = torch.cat([torch.tensor(part.targets, dtype=torch.int64) for part in parts])
    return Dataset(images.contiguous(), labels, test_from=len(parts[0].targets))
