from __future__ import annotations

import io
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fgunlearn.experiment import data
from fgunlearn.experiment.data import Batches, Dataset


def images(count: int, classes: int = 4, test_from: int | None = None) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    pixels[:, 0, 0, 0] = torch.arange(count) % 256  # tells samples apart
    return Dataset(pixels, torch.arange(count) % classes, test_from)


def numbers(samples: data.Samples) -> set[int]:
    return set(samples.images[:, 0, 0, 0].tolist())


def test_the_split_is_70_10_20_disjoint_and_stratified() -> None:
    split = data.split(images(200), seed=3)
    parts = [split.train, split.heldout, split.test]
    assert [len(part) for part in parts] == [140, 20, 40]
    assert set.union(*map(numbers, parts)) == set(range(200))
    for part in parts:
        assert part.labels.bincount().unique().numel() == 1
    assert split.classes == 4


def test_a_split_is_a_function_of_the_seed() -> None:
    first, same, other = (data.split(images(200), seed) for seed in (3, 3, 4))
    assert torch.equal(first.train.images, same.train.images)
    assert numbers(first.train) != numbers(other.train)


def test_a_test_set_of_the_datas_own_stays_the_test_set() -> None:
    for seed in (0, 1):
        split = data.split(images(200, test_from=150), seed)
        assert numbers(split.test) == set(range(150, 200))
        assert (len(split.train), len(split.heldout)) == (134, 16)


def test_a_limit_shortens_all_parts_by_the_same_share() -> None:
    whole, limited = data.split(images(400), 0), data.split(images(400), 0, limit=140)
    assert [len(part) for part in (limited.train, limited.heldout, limited.test)] == [140, 20, 40]
    for part in ("train", "heldout", "test"):
        assert numbers(getattr(limited, part)) <= numbers(getattr(whole, part))
    with pytest.raises(ValueError, match="limit must be at least the number of classes, 4, got 3"):
        data.split(images(200), 0, limit=3)


def test_training_images_are_normalised_per_channel() -> None:
    train = data.split(images(200), 0).train
    x = torch.cat([x for x, _ in train.batches(32)])
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def order(batches: Batches) -> list[int]:
    return [int(i) for _, y in batches for i in y]


def test_batches_without_a_seed_keep_the_order() -> None:
    batches = Batches(torch.arange(10.0), torch.arange(10), 4)
    assert [len(y) for _, y in batches] == [4, 4, 2]
    assert len(batches) == 3
    assert order(batches) == order(batches) == list(range(10))


def test_shuffled_passes_differ_and_can_be_repeated() -> None:
    first, second = (Batches(torch.arange(50.0), torch.arange(50), 8, seed=5) for _ in range(2))
    passes = [order(first), order(first)]
    assert passes[0] != passes[1]
    assert [order(second), order(second)] == passes
    assert sorted(passes[0]) == list(range(50))
    assert order(Batches(torch.arange(50.0), torch.arange(50), 8, seed=6)) != passes[0]


def test_an_incomplete_batch_can_be_left_out_but_not_the_only_one() -> None:
    def sizes(count: int) -> list[int]:
        batches = Batches(torch.arange(float(count)), torch.arange(count), 4, drop_last=True)
        found = [len(y) for _, y in batches]
        assert len(batches) == len(found)
        return found

    assert sizes(10) == [4, 4]
    assert sizes(8) == [4, 4]
    assert sizes(3) == [3]


@pytest.mark.parametrize(("x", "size", "message"), [(4, 0, "size must be >= 1, got 0"), (3, 2, "got 3 and 4")])
def test_bad_batches_are_refused(x: int, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batches(torch.zeros(x), torch.zeros(4), size)


@pytest.mark.parametrize("test_from", [None, 6])
def test_a_saved_dataset_reads_back(tmp_path: Path, test_from: int | None) -> None:
    saved = images(8, test_from=test_from)
    saved.save(tmp_path / "data.safetensors")
    read = data.read(f"tensors:{tmp_path / 'data.safetensors'}")
    assert torch.equal(read.images, saved.images)
    assert torch.equal(read.labels, saved.labels)
    assert read.test_from == test_from


def test_digits_are_8x8_in_0_to_1() -> None:
    pytest.importorskip("sklearn")
    digits = data.read("digits")
    assert digits.images.shape == (1797, 1, 8, 8)
    assert (float(digits.images.min()), float(digits.images.max())) == (0.0, 1.0)
    assert digits.labels.unique().tolist() == list(range(10))


def jpeg_npz(path: Path, values: list[int]) -> None:
    image = pytest.importorskip("PIL.Image")
    files = []
    for value in values:
        buffer = io.BytesIO()
        image.fromarray(np.full((32, 32, 3), value, np.uint8)).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    offsets = np.cumsum([0, *map(len, files)]).astype(np.int64)
    labels = np.arange(len(values)).astype(np.uint8)
    np.savez_compressed(path, jpeg=np.frombuffer(b"".join(files), np.uint8), offsets=offsets, labels=labels)


def test_cifar10_is_read_from_jpeg_npz_files(tmp_path: Path) -> None:
    jpeg_npz(tmp_path / "cifar10_jpeg_train.npz", [0, 100, 200])
    jpeg_npz(tmp_path / "cifar10_jpeg_test.npz", [50])
    found = data.read(f"cifar10:{tmp_path}")
    assert found.images.shape == (4, 3, 32, 32)
    assert found.images.dtype == torch.uint8
    assert [int(image.float().mean()) for image in found.images] == pytest.approx([0, 100, 200, 50], abs=2)
    assert (found.labels.tolist(), found.test_from) == ([0, 1, 2, 0], 3)


def test_a_damaged_npz_file_is_refused_by_name(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    np.savez(tmp_path / "cifar10_jpeg_train.npz", jpeg=np.zeros(3, np.uint8), labels=np.zeros(1, np.uint8))
    with pytest.raises(ValueError, match=r"cifar10_jpeg_train.npz has no array 'offsets'"):
        data.read(f"cifar10:{tmp_path}")


def test_cifar10_is_read_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class CIFAR10:
        def __init__(self, root: str, train: bool, download: bool) -> None:
            assert (root, download) == (str(tmp_path), False)
            count = 5 if train else 2
            self.data = np.full((count, 32, 32, 3), 7, np.uint8)
            self.targets = list(range(count))

    datasets = types.ModuleType("torchvision.datasets")
    datasets.CIFAR10 = CIFAR10  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    (tmp_path / "cifar-10-batches-py").mkdir()
    found = data.read(f"cifar10:{tmp_path}")
    assert (found.images.shape, found.test_from) == ((7, 3, 32, 32), 5)
    assert found.labels.tolist() == [0, 1, 2, 3, 4, 0, 1]


@pytest.mark.parametrize("spec", ["", "digit", "digits:somewhere", "cifar10", "cifar10:"])
def test_unknown_data_is_refused_with_what_there_is(spec: str) -> None:
    with pytest.raises(ValueError, match="data must be 'digits', 'cifar10:PATH'"):
        data.read(spec)


def test_a_path_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        data.read(f"cifar10:{tmp_path / 'nowhere'}")
    with pytest.raises(FileNotFoundError, match="holds neither"):
        data.read(f"cifar10:{tmp_path}")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        data.read(f"tensors:{tmp_path / 'nowhere'}")


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (torch.zeros(2, 8, 8), torch.zeros(2, dtype=torch.int64), r"images of shape \(n, channels, h, w\)"),
        (torch.zeros(2, 1, 8, 8), torch.zeros(3, dtype=torch.int64), r"shape \(3,\)"),
        (torch.zeros(2, 1, 8, 8), torch.zeros(2), "got .*float32"),
        (torch.zeros(2, 1, 8, 8), torch.tensor([0, -1]), "labels must be >= 0, got -1"),
    ],
)
def test_tensors_of_other_shapes_are_refused(tmp_path: Path, pixels: Tensor, labels: Tensor, message: str) -> None:
    Dataset(pixels, labels).save(tmp_path / "data.safetensors")
    with pytest.raises(ValueError, match=message):
        data.read(f"tensors:{tmp_path / 'data.safetensors'}")


def test_a_file_that_is_not_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.safetensors").write_bytes(b"not this")
    with pytest.raises(ValueError, match="is not a safetensors file with images and labels"):
        data.read(f"tensors:{tmp_path / 'data.safetensors'}")
