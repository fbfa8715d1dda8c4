"""No space left on the device: told before or while something is written, and everything stays as it was."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoints import Tensor, changed, contents, random_tensor, refused_unchanged, write, write_sharded
from child_processes import ended, fork
from fgunlearn import patch


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"mounting a file system is not permitted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


TENSORS = {"t": random_tensor("F32", (150_000,))}  # 0.6 MB


def _patch(folder: Path, count: int) -> Path:
    """A patch for a checkpoint of these tensors, made where there is space."""
    base, new = write(folder / "base", TENSORS), write(folder / "new", changed(TENSORS, count))
    patch.create(base, new, folder / "patch")
    return folder / "patch"


@pytest.mark.parametrize("existing", [True, False])
def test_a_result_that_does_not_fit_is_refused(disk: Path, tmp_path: Path, existing: bool) -> None:
    path = _patch(tmp_path, 10)
    write(disk / "takes space", TENSORS)
    if existing:
        (disk / "out").write_text("old")
    with refused_unchanged(disk, OSError, "No space left", disk / "out"):
        patch.apply(tmp_path / "base", path, disk / "out")
    with refused_unchanged(disk, OSError, "No space left", disk / "out"):
        patch.revert(tmp_path / "new", path, disk / "out")


def test_a_patch_that_does_not_fit_is_refused(disk: Path, tmp_path: Path) -> None:
    base, new = write(tmp_path / "base", TENSORS), write(tmp_path / "new", changed(TENSORS, 150_000))
    with refused_unchanged(disk, OSError, "No space left", disk / "p"):
        patch.create(base, new, disk / "p")


def test_a_journal_that_does_not_fit_leaves_the_checkpoint_alone(disk: Path, tmp_path: Path) -> None:
    path = _patch(tmp_path, 100_000)
    base = write(disk / "base", TENSORS)
    with refused_unchanged(disk, OSError, "No space left", disk):
        patch.apply(base, path, in_place=True)


def test_a_sharded_result_that_does_not_fit_is_refused(disk: Path, tmp_path: Path) -> None:
    shards = {f"{i}.safetensors": {f"t{i}": random_tensor("F32", (50_000,), i)} for i in range(3)}
    base = write_sharded(disk / "base", shards)
    new = write_sharded(tmp_path / "new", {name: changed(tensors, 9) for name, tensors in shards.items()})
    patch.create(base, new, tmp_path / "patch")
    with refused_unchanged(disk, OSError, "No space left", disk / "out"):
        patch.apply(base, tmp_path / "patch", disk / "out")


def test_a_checkpoint_with_holes_that_can_not_be_filled_is_refused(disk: Path, tmp_path: Path) -> None:
    """To write into a hole through a map, with no space for it, would end the process with SIGBUS."""
    zeros = {"t": Tensor("U8", (3_000_000,), bytes(3_000_000))}
    base = write(tmp_path / "base", zeros)
    patch.create(base, write(tmp_path / "new", changed(zeros, 1000)), tmp_path / "patch")
    sparse = disk / "sparse"
    with sparse.open("wb") as file:
        file.write(base.read_bytes()[:200])
        file.truncate(base.stat().st_size)
    assert sparse.read_bytes() == base.read_bytes()

    def work() -> None:
        with refused_unchanged(disk, OSError, "No space left", sparse):
            patch.apply(sparse, tmp_path / "patch", in_place=True)

    assert ended(fork(work)) == 0


CALLS: dict[str, Callable[[Path], Any]] = {
    "create": lambda folder: patch.create(folder / "base", folder / "new", folder / "out"),
    "apply": lambda folder: patch.apply(folder / "base", folder / "patch", folder / "out"),
    "apply in place": lambda folder: patch.apply(folder / "base", folder / "patch", in_place=True),
    "revert": lambda folder: patch.revert(folder / "new", folder / "patch", folder / "out"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("existing", [True, False])
def test_a_limit_on_file_sizes_is_an_error_as_well(tmp_path: Path, call: str, existing: bool) -> None:
    _patch(tmp_path, 100_000)
    if existing:
        (tmp_path / "out").write_text("old")
    before = contents(tmp_path)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with pytest.raises(OSError, match="File too large"):
            CALLS[call](tmp_path)

    assert ended(fork(work)) == 0
    assert contents(tmp_path) == before
