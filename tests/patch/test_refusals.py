"""Files that are refused: each by name, with everything on disk as it was."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import (
    Files,
    Tensor,
    changed,
    contents,
    random_tensor,
    refused_unchanged,
    write,
    write_sharded,
)
from fgunlearn import patch

W, B, N = random_tensor("F32", (5, 7), 1), random_tensor("BF16", (9,), 2), random_tensor("I64", ())
TENSORS = {"w": W, "b": B, "n": N}  # those of the fixture files

CALLS: dict[str, Callable[[Files], patch.Patch]] = {
    "a new file": lambda files: patch.apply(files.base, files.patch, files.folder / "out"),
    "over a file": lambda files: patch.apply(files.base, files.patch, files.folder / "there"),
    "in place": lambda files: patch.apply(files.base, files.patch, in_place=True),
    "back": lambda files: patch.revert(files.new, files.patch, files.folder / "out"),
    "back in place": lambda files: patch.revert(files.new, files.patch, in_place=True),
}


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest, files: Files) -> Callable[[Files], patch.Patch]:
    """One of the ways to use a patch; in the folder is a file "there" besides."""
    write(files.folder / "there", TENSORS)
    return CALLS[request.param]


def _both(files: Files, tensors: dict[str, Tensor]) -> None:
    write(files.base, tensors)
    write(files.new, tensors)


@pytest.mark.parametrize("position", [0, 17, 34])
@pytest.mark.parametrize("name", ["w", "b", "n"])
def test_a_checkpoint_that_differs_in_one_value_is_not_the_base(
    files: Files, call: Callable[[Files], patch.Patch], name: str, position: int
) -> None:
    """Whether or not the patch changes that tensor."""
    for path in (files.base, files.new):
        held = bytearray(path.read_bytes())
        offset = {"w": 0, "b": 140, "n": 158}[name] + position % (len(TENSORS[name].data))
        held[len(held) - 166 + offset] ^= 1
        path.write_bytes(held)
    with refused_unchanged(files.folder, ValueError, f"'{name}'", "is not the ", files.patch):
        call(files)


@pytest.mark.parametrize(
    ("tensors", "parts"),
    [
        ({"w": W, "b": B}, ["'n'", "is missing in"]),
        ({"w": W, "b": B, "n": N, "more": N}, ["'more'", "does not know"]),
        ({"w": W, "b": B, "m": N}, ["'m'", "does not know"]),
        ({"w": W._replace(dtype="I32"), "b": B, "n": N}, ["'w'", "I32", "F32"]),
        ({"w": W._replace(shape=(7, 5)), "b": B, "n": N}, ["'w'", "[7, 5]", "[5, 7]"]),
        ({"w": W, "b": B, "n": N._replace(shape=(1,))}, ["'n'", "[1]", "[]"]),
        ({"w": random_tensor("F32", (5, 8)), "b": B, "n": N}, ["'w'", "[5, 8]", "[5, 7]"]),
    ],
)
def test_other_tensors_are_refused_by_name(
    files: Files, call: Callable[[Files], patch.Patch], tensors: dict[str, Tensor], parts: list[str]
) -> None:
    _both(files, tensors)
    with refused_unchanged(files.folder, ValueError, *parts, files.patch):
        call(files)


@pytest.mark.parametrize(
    ("tensors", "parts"),
    [
        ({"w": W, "b": B}, ["'n'", "is missing in"]),
        ({"w": W, "b": B, "n": N, "more": N}, ["'more'", "has not"]),
        ({"w": W._replace(dtype="I32"), "b": B, "n": N}, ["'w'", "dtype I32", "F32 before"]),
        ({"w": W._replace(shape=(7, 5)), "b": B, "n": N}, ["'w'", "shape [7, 5]", "[5, 7] before"]),
    ],
)
def test_a_patch_is_made_between_like_checkpoints_only(
    files: Files, tensors: dict[str, Tensor], parts: list[str]
) -> None:
    write(files.new, tensors)
    with refused_unchanged(files.folder, ValueError, *parts, files.new):
        patch.create(files.base, files.new, files.folder / "other")


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint and a patch for it of some 700 bytes."""
    tensors = {"t": random_tensor("U8", (3,))}
    base = write(tmp_path / "base", tensors)
    patch.create(base, write(tmp_path / "new", changed(tensors, 1)), tmp_path / "p")
    return base, tmp_path / "p"


def test_a_patch_that_is_cut_off_anywhere_is_refused(small: tuple[Path, Path]) -> None:
    base, path = small
    held, was = path.read_bytes(), base.read_bytes()
    for length in range(len(held)):
        path.write_bytes(held[:length])
        with pytest.raises(ValueError, match=str(path)):
            patch.apply(base, path, in_place=True)
    path.write_bytes(held + b" ")
    with pytest.raises(ValueError, match="more than its tensors"):
        patch.apply(base, path, in_place=True)
    assert base.read_bytes() == was
    assert sorted(contents(base.parent)) == ["base", "new", "p"]


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80, 0xFF])
def test_a_patch_in_which_any_byte_was_altered_is_refused(small: tuple[Path, Path], flip: int) -> None:
    base, path = small
    held, was = path.read_bytes(), base.read_bytes()
    for place in range(len(held)):
        path.write_bytes(held[:place] + bytes([held[place] ^ flip]) + held[place + 1 :])
        with pytest.raises(ValueError, match=str(path)):
            patch.apply(base, path, in_place=True)
    assert base.read_bytes() == was
    assert sorted(contents(base.parent)) == ["base", "new", "p"]


def test_what_is_no_patch_is_refused(files: Files, call: Callable[[Files], patch.Patch]) -> None:
    for wrong, parts in (
        (files.base, [files.base, "not a forget patch"]),
        (files.folder, [files.folder, "not a regular file"]),
    ):
        with refused_unchanged(files.folder, ValueError, *parts):
            call(files._replace(patch=wrong))
    with refused_unchanged(files.folder, OSError, "nowhere"):
        call(files._replace(patch=files.folder / "nowhere"))
    os.mkfifo(files.folder / "pipe")
    with pytest.raises(ValueError, match="pipe is not a regular file"):
        call(files._replace(patch=files.folder / "pipe"))


def test_a_base_that_is_no_checkpoint_is_refused(files: Files) -> None:
    for wrong, error in ((files.folder, ValueError), (files.folder / "nowhere", OSError)):
        for given in ({"in_place": True}, {"out": files.folder / "out"}):
            with refused_unchanged(files.folder, error, wrong):
                patch.apply(wrong, files.patch, **given)
        with refused_unchanged(files.folder, error, wrong):
            patch.create(wrong, files.new, files.folder / "other")
        with refused_unchanged(files.folder, error, wrong):
            patch.recover(wrong)


def test_one_of_out_and_in_place_is_to_be_given(files: Files) -> None:
    with refused_unchanged(files.folder, ValueError, "out", "in_place"):
        patch.apply(files.base, files.patch)
    with refused_unchanged(files.folder, ValueError, "out", "in_place"):
        patch.revert(files.new, files.patch, files.folder / "out", in_place=True)


def test_what_is_read_is_not_written_over(files: Files) -> None:
    os.link(files.base, files.folder / "hard")
    (files.folder / "soft").symlink_to(files.base)
    for name in (files.base.name, "hard", "soft", files.patch.name):
        with refused_unchanged(files.folder, ValueError, "out", name, "which is read"):
            patch.apply(files.base, files.patch, files.folder / name)
    for name in (files.base.name, files.new.name, "hard", "soft"):
        with refused_unchanged(files.folder, ValueError, "patch_file", name, "which is read"):
            patch.create(files.base, files.new, files.folder / name)


def test_a_place_where_no_file_can_be_is_refused(files: Files) -> None:
    (files.folder / "folder").mkdir()
    for name, part in (("folder", "is a folder"), ("nowhere/out", "there is no folder")):
        with refused_unchanged(files.folder, ValueError, "out", name.removesuffix("/out"), part):
            patch.apply(files.base, files.patch, files.folder / name)
        with refused_unchanged(files.folder, ValueError, "patch_file", name.removesuffix("/out"), part):
            patch.create(files.base, files.new, files.folder / name)


def test_a_read_only_file_stays_as_it_is(files: Files) -> None:
    """Even for the superuser, who could write it."""
    (files.folder / "there").write_text("old")
    for path in (files.base, files.folder / "there"):
        path.chmod(0o444)
    with refused_unchanged(files.folder, ValueError, "base", files.base, "read-only"):
        patch.apply(files.base, files.patch, in_place=True)
    with refused_unchanged(files.folder, ValueError, "out", "there", "read-only"):
        patch.apply(files.base, files.patch, files.folder / "there")
    with refused_unchanged(files.folder, ValueError, "patch_file", "there", "read-only"):
        patch.create(files.base, files.new, files.folder / "there")


def test_a_symbolic_link_is_not_changed_in_place(files: Files) -> None:
    (files.folder / "link").symlink_to(files.base)
    with refused_unchanged(files.folder, ValueError, "link", "symbolic link"):
        patch.apply(files.folder / "link", files.patch, in_place=True)
    with refused_unchanged(files.folder, ValueError, "link", "symbolic link"):
        patch.recover(files.folder / "link")
    patch.apply(files.folder / "link", files.patch, files.folder / "out")
    assert (files.folder / "out").read_bytes() == files.new.read_bytes()


def test_a_sharded_checkpoint_is_written_to_a_new_folder_only(tmp_path: Path) -> None:
    shards = {"1.safetensors": {"a": W}, "2.safetensors": {"b": B}}
    base = write_sharded(tmp_path / "base", shards)
    new = write_sharded(tmp_path / "new", {name: changed(tensors) for name, tensors in shards.items()})
    patch.create(base, new, tmp_path / "p")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("base", "p", "link"):
        with refused_unchanged(tmp_path, ValueError, "out", name, "is there already"):
            patch.apply(base, tmp_path / "p", tmp_path / name)
    with refused_unchanged(tmp_path, ValueError, "out", "there is no folder"):
        patch.apply(base, tmp_path / "p", tmp_path / "nowhere" / "out")
    held = bytearray((tmp_path / "base" / "2.safetensors").read_bytes())
    held[-1] ^= 1
    (tmp_path / "base" / "2.safetensors").write_bytes(held)
    for given in ({"in_place": True}, {"out": tmp_path / "out"}):  # the first file would have been right
        with refused_unchanged(tmp_path, ValueError, "'b'", "is not the base of"):
            patch.apply(base, tmp_path / "p", **given)


def _nested() -> list[Any]:
    held: list[Any] = []
    for _ in range(100_000):
        held = [held]
    return held


@pytest.mark.parametrize(
    ("metadata", "error", "parts"),
    [
        ({"a": {1, 2}}, TypeError, ["metadata['a']", "set"]),
        ({"a": [1, {"b": b"x"}]}, TypeError, ["metadata['a'][1]['b']", "bytes"]),
        ({"a": Path("x")}, TypeError, ["metadata['a']", "PosixPath"]),
        ({1: "a"}, TypeError, ["metadata", "a name must be a string, got 1"]),
        ([("a", 1)], TypeError, ["metadata must be a mapping"]),
        ({"loss": float("nan")}, ValueError, ["metadata['loss'] is nan"]),
        ({"loss": [1.0, -float("inf")]}, ValueError, ["metadata['loss'][1] is -inf"]),
        ({"a": "\ud800"}, ValueError, ["not Unicode"]),
        ({"a": _nested()}, ValueError, ["metadata is nested too deeply"]),
    ],
)
def test_metadata_that_is_no_plain_data_is_refused(
    files: Files, metadata: Any, error: type[Exception], parts: list[str]
) -> None:
    with refused_unchanged(files.folder, error, *parts):
        patch.create(files.base, files.new, files.folder / "other", metadata=metadata)


def test_a_patch_that_nobody_could_read_does_not_take_the_place_of_one(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fgunlearn.checkpoint_files._LARGEST_HEADER", 2000)
    with refused_unchanged(files.folder, ValueError, "its header has"):
        patch.create(files.base, files.new, files.patch, metadata={"note": "x" * 3000})


def test_numbers_of_other_kinds_are_written_as_numbers(files: Files) -> None:
    class Mode(enum.IntEnum):
        A = 3

    metadata = {"mode": Mode.A, "loss": np.float64(0.1)}
    assert patch.create(files.base, files.new, files.patch, metadata=metadata).metadata == {"mode": 3, "loss": 0.1}
