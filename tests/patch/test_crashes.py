"""SIGKILL and Ctrl-C at 200 random moments and more: what is found then is the old file or the new one, or comes back.

Each run is a fork of this process: it starts at once, and what it is killed in is the work and not the imports.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import Files, changed, random_tensor, refused_unchanged, write
from child_processes import seconds, signalled
from fgunlearn import checkpoint_files, patch

KILLS = 100  # of each way to apply
INTERRUPTS = 30


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """Work of many small steps: a megabyte in pieces of half a kilobyte, of which one value in twenty-five changes."""
    monkeypatch.setattr(checkpoint_files, "PIECE", 512)
    tensors = {f"t{i}": random_tensor("F32", (62_500,), i) for i in range(4)}
    base = write(tmp_path / "base", tensors)
    new = write(tmp_path / "new", changed(tensors, 2500))
    patch.create(base, new, tmp_path / "patch")
    return Files(tmp_path, base, new, tmp_path / "patch")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _moments(
    work: Callable[[], Any], again: Callable[[], Any], count: int, seed: int, after: Callable[[], bool] = lambda: True
) -> list[float]:
    """Delays over the duration of a run that nobody disturbs, the median of some, or over what is left of it."""
    durations = []
    for _ in range(5):
        again()
        durations.append(seconds(work, after))
    return (np.random.default_rng(seed).random(count) * np.median(durations)).tolist()


def _litter(files: Files) -> list[Path]:
    return [path for path in files.folder.iterdir() if path.name.endswith(".part")]


def test_a_kill_leaves_the_old_file_or_the_new_one(large: Files) -> None:
    out = large.folder / "out"
    old = b"old" * 1000

    def again() -> None:
        out.write_bytes(old)

    def work() -> None:
        patch.apply(large.base, large.patch, out)

    ends = {hashlib.sha256(old).hexdigest(), _digest(large.new)}
    before = _digest(large.base)
    killed = in_the_middle = 0
    for delay in _moments(work, again, KILLS, seed=1):
        again()
        killed += signalled(work, delay, signal.SIGKILL) == -signal.SIGKILL
        assert _digest(out) in ends
        in_the_middle += bool(_litter(large))
        for path in _litter(large):
            path.unlink()
    assert _digest(large.base) == before
    assert killed > KILLS // 4
    assert in_the_middle > KILLS // 10, "hardly any was killed while it was writing"


def test_after_a_kill_in_place_the_next_call_finds_the_old_file_or_the_new_one(large: Files) -> None:
    was, now = large.base.read_bytes(), large.new.read_bytes()
    ends = {_digest(large.base), _digest(large.new)}
    journal = large.folder / ".base.applying"

    def again() -> None:
        large.base.write_bytes(was)

    def work() -> None:
        patch.apply(large.base, large.patch, in_place=True)

    names = {path.name for path in large.folder.iterdir()}
    interrupted = 0
    anywhere = [(delay, lambda: True) for delay in _moments(work, again, KILLS // 2, 2)]
    changing = [(delay, journal.exists) for delay in _moments(work, again, KILLS // 2, 2, journal.exists)]
    for i, (delay, after) in enumerate(anywhere + changing):
        again()
        signalled(work, delay, signal.SIGKILL, after)
        found = journal.exists()
        interrupted += found
        if found:
            if interrupted <= 3:
                for call in (
                    lambda: patch.apply(large.base, large.patch, large.folder / "out"),
                    lambda: patch.create(large.base, large.new, large.folder / "other"),
                ):
                    with refused_unchanged(large.folder, ValueError, "interrupted", "recover"):
                        call()
        else:
            assert _digest(large.base) in ends
        if i % 2:
            assert patch.recover(large.base) == found
            assert large.base.read_bytes() == was or not found
        else:
            if not found and large.base.read_bytes() == now:
                again()
            patch.apply(large.base, large.patch, in_place=True)
            assert large.base.read_bytes() == now
        assert {path.name for path in large.folder.iterdir()} == names
    assert interrupted > KILLS // 10, "hardly any was killed while it was writing"


@pytest.mark.parametrize("in_place", [False, True])
def test_ctrl_c_leaves_the_old_file_or_the_new_one_and_no_litter(large: Files, in_place: bool) -> None:
    was, now = large.base.read_bytes(), large.new.read_bytes()
    out = large.base if in_place else large.folder / "out"

    def again() -> None:
        out.write_bytes(was)

    def work() -> None:
        patch.apply(large.base, large.patch, None if in_place else out, in_place=in_place)

    again()
    names = {path.name for path in large.folder.iterdir()}
    stopped = 0
    for delay in _moments(work, again, INTERRUPTS, seed=3):
        again()
        status = signalled(work, delay, signal.SIGINT)
        assert status in (0, 130)
        stopped += status == 130
        assert out.read_bytes() in ((was, now) if status else (now,))
        assert {path.name for path in large.folder.iterdir()} == names
    assert stopped > INTERRUPTS // 4
