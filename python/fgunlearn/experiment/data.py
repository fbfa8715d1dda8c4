"""Labelled images in memory: reading, splitting, batching. Everything random is a function of a seed."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

HELDOUT_SHARE = 0.1  # of all samples where there is no test set of the data's own, else of its training samples
TEST_SHARE = 0.2


class Batches:
    """An iterable of ``(x, y)`` batches that can be read again and again; x is float32 and normalised.

    With ``shuffle``, the p-th pass over the data has the order that (seed, p) give, so two objects made alike give the
    same batches. Reading is an ``index_select``; there are no worker processes.

    Args:
        samples: the images and labels.
        size: samples per batch.
        shuffle: another order in every pass, or the samples' own order.
        seed: of the order.
        drop_last: leave an incomplete last batch out, unless it is the only one.

    Raises:
        ValueError: size below 1.
    """

    def __init__(self, samples: Samples, size: int, shuffle: bool, seed: int, drop_last: bool) -> None:
        if size < 1:
            raise ValueError(f"size must be >= 1, got {size}")
        self._samples = samples
        self._size = size
        self._shuffle = shuffle
        self._seed = seed
        self._drop_last = drop_last
        self._passes = 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self._samples), self._size)
        return whole + (rest > 0 and not (self._drop_last and whole > 0))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        samples, size = self._samples, self._size
        order = torch.arange(len(samples))
        if self._shuffle:
            generator = torch.Generator().manual_seed((self._seed << 20) + self._passes)
            order = torch.randperm(len(samples), generator=generator)
            self._passes += 1
        for start in range(0, len(self) * size, size):
            chosen = order[start : start + size]
            x = samples.images.index_select(0, chosen).to(torch.float32)
            yield x.sub_(samples.mean).div_(samples.std), samples.labels.index_select(0, chosen)


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

    def batches(self, size: int, *, shuffle: bool = False, seed: int = 0, drop_last: bool = False) -> Batches:
        """An iterable of ``(x, y)`` batches, see :class:`Batches`."""
        return Batches(self, size, shuffle, seed, drop_last)


@dataclass(frozen=True)
class Dataset:
    """Labelled images as read: uint8 or float32 (n, channels, h, w), int64 (n,), and where a test set begins.

    ``test_from`` is the index of the first sample of the data's own test set; None where it has none.
    """

    images: Tensor
    labels: Tensor
    test_from: int | None = None

    @property
    def classes(self) -> int:
        """The number of classes: the largest label + 1."""
        return int(self.labels.max()) + 1

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file for :meth:`load`, which maps it into memory."""
        metadata = {} if self.test_from is None else {"test_from": str(self.test_from)}
        save_file({"images": self.images.contiguous(), "labels": self.labels}, path, metadata | {"format": "pt"})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Dataset:
        """Reads what :meth:`save` wrote."""
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            test_from = (file.metadata() or {}).get("test_from")
        return cls(tensors["images"], tensors["labels"], None if test_from is None else int(test_from))

    def limited(self, samples: int | None) -> Dataset:
        """At most this many samples, evenly spread over the data (the test set keeps its share); None for all."""
        count = len(self.labels)
        if samples is None or samples >= count:
            return self
        kept = torch.arange(samples) * count // samples
        test_from = None if self.test_from is None else int((kept < self.test_from).sum())
        return Dataset(self.images[kept], self.labels[kept], test_from)


@dataclass(frozen=True)
class Split:
    """What a model is trained on, what no model is ever trained on, and what it is tested on."""

    train: Samples
    heldout: Samples
    test: Samples


def split(data: Dataset, seed: int) -> Split:
    """Train 70, held-out 10, test 20 percent, stratified by class, another one for every seed.

    Where the data has a test set of its own, that is the test part for every seed, and 10 percent of the rest is held
    out. Images are normalised by the training part's mean and standard deviation per channel.
    """
    generator = torch.Generator().manual_seed(seed)
    everything = torch.arange(len(data.labels))
    if data.test_from is None:
        test = _stratified(everything, data.labels, TEST_SHARE, generator)
        heldout_share = HELDOUT_SHARE / (1.0 - TEST_SHARE)
    else:
        test = everything >= data.test_from
        heldout_share = HELDOUT_SHARE
    heldout = _stratified(everything[~test], data.labels, heldout_share, generator)
    train = ~test & ~heldout
    pixels = data.images[train]
    # Sums over uint8 images in float64, without a float copy of all of them.
    mean = pixels.mean((0, 2, 3), keepdim=True, dtype=torch.float64)
    squares = torch.stack([part.double().square().sum((0, 2, 3)) for part in pixels.split(4096)]).sum(0)
    variance = squares.reshape(mean.shape) / (pixels.numel() / pixels.shape[1]) - mean.square()
    std = variance.clamp_min(1e-12).sqrt()
    whole = Samples(data.images, data.labels, mean.float(), std.float())
    return Split(whole.take(train), whole.take(heldout), whole.take(test))


def _stratified(candidates: Tensor, labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A bool mask over all samples with the share of the candidates of each class, rounded, at least one of each."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels[candidates].unique():
        of_class = candidates[labels[candidates] == label]
        count = min(len(of_class), max(1, round(share * len(of_class))))
        chosen[of_class[torch.randperm(len(of_class), generator=generator)[:count]]] = True
    return chosen


def read(spec: str) -> Dataset:
    """Reads the data a word on the command line names.

    Args:
        spec: "digits", scikit-learn's 1,797 images of 8x8; or "cifar10:PATH", PATH a folder with
            ``cifar10_jpeg_train.npz`` and ``cifar10_jpeg_test.npz`` or with torchvision's ``cifar-10-batches-py``.

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
            raise FileNotFoundError(f"{folder} is not a folder")
        if (folder / _JPEG_FILES[0]).exists():
            return _cifar10_jpeg(folder)
        if (folder / "cifar-10-batches-py").is_dir():
            return _cifar10_torchvision(folder)
        raise FileNotFoundError(f"{folder} holds neither {_JPEG_FILES[0]} nor cifar-10-batches-py")
    raise ValueError(f"data must be 'digits' or 'cifar10:PATH', got {spec!r}")


def _digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits data needs scikit-learn: pip install 'fgunlearn[eval]'") from error
    digits = load_digits()
    images = torch.from_numpy((digits.images / 16.0).astype(np.float32))[:, None]
    return Dataset(images, torch.from_numpy(digits.target.astype(np.int64)))


_JPEG_FILES = ("cifar10_jpeg_train.npz", "cifar10_jpeg_test.npz")


def _cifar10_jpeg(folder: Path) -> Dataset:
    try:
        from PIL import Image
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
        for i, (start, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
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
