"""Writing a checkpoint: on a full disk, after a kill, and where another call is at the same file."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import fgunlearn as fg
from fgunlearn import files
from fgunlearn.resuming import file
from interrupted import (
    Case,
    bits,
    interrupt,
    outcome,
    seed_all,
)

pytestmark = pytest.mark.usefixtures("_one_thread")

CASE = Case({"forget": "heldout"})


def test_a_full_disk_gives_the_model_back_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, model = tmp_path / "run", CASE.model()
    expected = outcome(CASE, None)
    before = bits(model)
    save, written = file.save_file, 0

    def full(tensors: Any, to: Path, metadata: Any) -> None:
        nonlocal written
        written += 1
        if written == 3:
            to.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(tensors, to, metadata)

    monkeypatch.setattr(file, "save_file", full)
    seed_all(5)
    with pytest.raises(OSError, match=f"the checkpoint {re.escape(str(path))} can't be written: .*No space left"):
        CASE.call(model, path)
    assert bits(model) == before
    assert list(tmp_path.iterdir()) == [path]
    assert outcome(CASE, path, seed=8) == expected


def test_what_a_process_left_that_was_killed_as_it_wrote_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "run[1]"
    others = [files.beside(tmp_path / "run[2]"), tmp_path / ".run[1].part"]
    for left in (files.beside(path), *others):
        left.write_bytes(b"half")
    CASE.call(CASE.model(), path)
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_what_another_process_writes_just_now_stays(tmp_path: Path) -> None:
    path, seen = tmp_path / "run", []
    save = file.save_file

    def meanwhile(tensors: Any, to: Path, metadata: Any) -> None:
        save(tensors, to, metadata)
        file.remove_unfinished(path)
        seen.append(to.exists())

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(file, "save_file", meanwhile)
        file.write(path, file.Contents({"x": torch.zeros(3)}, {}))
    assert seen == [True]
    assert list(tmp_path.iterdir()) == [path]


def second_call(path: Path, out: Path) -> None:
    model = CASE.model()
    before = bits(model)
    try:
        CASE.call(model, path)
    except ValueError as error:
        assert bits(model) == before
        out.write_text(str(error))


def test_a_second_process_is_refused_while_the_first_is_at_work(tmp_path: Path) -> None:
    path, out = tmp_path / "run", tmp_path / "out"
    expected = outcome(CASE, None)
    taken = 0

    def start_another(*_: object) -> None:
        nonlocal taken
        taken += 1
        if taken == 5:
            process = multiprocessing.get_context("spawn").Process(target=second_call, args=(path, out))
            process.start()
            process.join()

    handle = register_optimizer_step_post_hook(start_another)
    try:
        assert outcome(CASE, path) == expected
    finally:
        handle.remove()
    assert f"{path} is the file of another call that is at work" in out.read_text()
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("step", [3, 10])
def test_the_file_of_another_call_is_neither_replaced_nor_removed(tmp_path: Path, step: int) -> None:
    path, other, taken = tmp_path / "run", tmp_path / "other", 0
    interrupt(CASE, other, 5, strategy=fg.TopK(0.2))
    held = other.read_bytes()

    def put(*_: object) -> None:
        nonlocal taken
        taken += 1
        if taken == step:
            other.rename(path)

    model = CASE.model()
    before = bits(model)
    handle = register_optimizer_step_post_hook(put)
    try:
        if step == 10:  # after the last checkpoint
            CASE.call(model, path)
        else:
            with pytest.raises(ValueError, match="run is the file of another call"):
                CASE.call(model, path)
            assert bits(model) == before
    finally:
        handle.remove()
    assert path.read_bytes() == held
    assert list(tmp_path.iterdir()) == [path]
