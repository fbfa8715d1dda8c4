"""Who may be at a checkpoint at the same time: many that read, or one that changes it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoints import Files, random_tensor, refused_unchanged, write, write_sharded
from fgunlearn import audit, patch
from fgunlearn.audit import fingerprints
from fgunlearn.cli import inputs
from fgunlearn.patch import applying, creating, in_place

TENSORS = {"w": random_tensor("F32", (5, 7), 1), "b": random_tensor("BF16", (9,), 2), "n": random_tensor("I64", ())}


def test_of_two_calls_at_once_the_second_is_refused(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    at_work, may_go_on = threading.Event(), threading.Event()
    check = in_place._check

    def slow(*arguments: Any) -> None:
        at_work.set()
        assert may_go_on.wait(60)
        check(*arguments)

    monkeypatch.setattr(in_place, "_check", slow)
    first = threading.Thread(target=patch.apply, args=(files.base, files.patch), kwargs={"in_place": True})
    first.start()
    try:
        assert at_work.wait(60)
        for call in (
            lambda: patch.apply(files.base, files.patch, in_place=True),
            lambda: patch.revert(files.base, files.patch, in_place=True),
            lambda: patch.recover(files.base),
        ):
            with refused_unchanged(files.folder, ValueError, files.base, "being read or changed by another call"):
                call()
    finally:
        may_go_on.set()
        first.join()
    assert files.base.read_bytes() == files.new.read_bytes()


@pytest.mark.parametrize("held", ["index", "1.safetensors", "2.safetensors"])
def test_a_sharded_checkpoint_is_locked_with_all_its_files(tmp_path: Path, held: str) -> None:
    shards = {"1.safetensors": TENSORS, "2.safetensors": {"more": random_tensor("U8", (99,))}}
    base = write_sharded(tmp_path / "base", shards)
    patch.create(base, base, tmp_path / "p")
    locked = base if held == "index" else base.with_name(held)
    with locked.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with refused_unchanged(tmp_path, ValueError, "base", locked, "being read or changed by another call"):
            patch.apply(base, tmp_path / "p", in_place=True)
    patch.apply(base, tmp_path / "p", in_place=True)


def test_a_checkpoint_is_not_replaced_while_it_is_changed_in_place(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(files.base, files.folder / "other")
    put = in_place._put

    def replaced_meanwhile(*given: Any) -> None:
        with pytest.raises(ValueError, match=r"out: .*base\.safetensors is being read or changed by another call"):
            patch.apply(files.folder / "other", files.patch, files.base)
        put(*given)

    monkeypatch.setattr(in_place, "_put", replaced_meanwhile)
    # Without its journal, which alone would have it refused.
    monkeypatch.setattr("fgunlearn.patch.creating.unfinished", lambda path: iter(()))
    patch.apply(files.base, files.patch, in_place=True)
    assert files.base.read_bytes() == files.new.read_bytes()


def _readers(files: Files) -> list[Callable[[], Any]]:
    return [
        lambda: patch.create(files.base, files.new, files.folder / "p"),
        lambda: patch.create(files.new, files.base, files.folder / "p"),
        lambda: patch.apply(files.base, files.patch, files.folder / "out"),
        lambda: patch.revert(files.base, files.patch, files.folder / "out"),
        lambda: audit.fingerprint(files.base),
        lambda: fingerprints.changed_between(files.base, files.new),
        lambda: fingerprints.changed_between(files.new, files.base),
        lambda: fingerprints.same_weights(torch.nn.Linear(1, 1), files.base),
    ]


@pytest.mark.parametrize("reader", range(8))
def test_nobody_reads_a_checkpoint_while_it_is_changed_in_place(files: Files, reader: int) -> None:
    """Before its journal is there, too, which would say so."""
    with files.base.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with refused_unchanged(files.folder, ValueError, files.base, "is being changed by another call of fgunlearn"):
            _readers(files)[reader]()


def test_a_checkpoint_is_not_changed_in_place_while_it_is_read(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: set[str] = set()

    def changed_meanwhile(within: str) -> None:
        for call in (
            lambda: patch.apply(files.base, files.patch, in_place=True),
            lambda: patch.recover(files.base),
        ):
            with refused_unchanged(files.folder, ValueError, files.base, "being read or changed by another call"):
                call()
        tried.add(within)

    for module, name in ((applying, "_write"), (creating, "_differences"), (fingerprints, "_of_place")):
        with monkeypatch.context() as within:
            real = getattr(module, name)

            def slowly(*given: Any, real: Any = real, name: str = name) -> Any:
                changed_meanwhile(name)
                return real(*given)

            within.setattr(module, name, slowly)
            if module is applying:
                within.setattr(applying, "replacing", lambda path, mode: contextlib.nullcontext(path))
                patch.apply(files.base, files.patch, files.folder / "out")
            elif module is creating:
                patch.create(files.base, files.new, files.folder / "again")
            else:
                audit.fingerprint(files.base)
    assert tried == {"_write", "_differences", "_of_place"}
    patch.apply(files.base, files.patch, in_place=True)  # nobody holds it any more
    assert files.base.read_bytes() == files.new.read_bytes()


def test_many_read_a_checkpoint_at_once(files: Files) -> None:
    with files.base.open("rb") as held, files.new.open("rb") as also_held:
        fcntl.flock(held, fcntl.LOCK_SH)
        fcntl.flock(also_held, fcntl.LOCK_SH)
        patch.create(files.base, files.new, files.folder / "p")
        patch.apply(files.base, files.patch, files.folder / "out")
        audit.fingerprint(files.base)
    assert (files.folder / "out").read_bytes() == files.new.read_bytes()


def test_a_checkpoint_that_was_replaced_as_it_was_opened_is_not_mixed_up(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def replaced_first(file: Any, how: int) -> None:
        if files.base.exists() and how & fcntl.LOCK_SH:
            shutil.copyfile(files.new, files.folder / "other")
            (files.folder / "other").replace(files.base)
        lock(file, how)

    with monkeypatch.context() as within:
        within.setattr(fcntl, "flock", replaced_first)
        with pytest.raises(ValueError, match="was replaced just now: call again"):
            audit.fingerprint(files.base)
    assert audit.fingerprint(files.base) == audit.fingerprint(files.new)


@pytest.mark.parametrize("moment", ["after its header was read", "as its tensors are"])
def test_a_checkpoint_that_another_program_replaces_is_not_taken_for_either(
    files: Files, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The other one has the same size, and its tensors elsewhere."""
    first, second = random_tensor("F32", (4,), 1), random_tensor("F32", (4,), 2)
    base = write(files.folder / "one", {"a": first, "b": second})
    write(files.folder / "other", {"b": first, "a": second})
    assert (files.folder / "one").stat().st_size == (files.folder / "other").stat().st_size
    name = "read_checkpoint" if moment == "after its header was read" else "_of_place"
    real = getattr(fingerprints, name)

    def replaced(*given: Any, **named: Any) -> Any:
        found = real(*given, **named)
        if (files.folder / "other").exists():
            (files.folder / "other").replace(base)
        return found

    monkeypatch.setattr(fingerprints, name, replaced)
    with pytest.raises(ValueError, match="was replaced just now: call again"):
        audit.fingerprint(base)
    assert audit.fingerprint(base)


def test_what_is_written_of_a_base_that_is_replaced_meanwhile_is_checked_by_its_hashes(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So there is nothing to refuse, once it is there."""
    write = applying._write

    def replaced(*given: Any) -> None:
        write(*given)
        (files.folder / "copy").replace(files.base)

    shutil.copyfile(files.base, files.folder / "copy")
    monkeypatch.setattr(applying, "_write", replaced)
    patch.apply(files.base, files.patch, files.folder / "out")
    assert (files.folder / "out").read_bytes() == files.new.read_bytes()


def test_the_command_line_reads_no_weights_while_they_are_changed(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    class Taking(torch.nn.Module):
        def load_state_dict(self, state: Any, **_: Any) -> None:
            with refused_unchanged(files.folder, ValueError, files.base, "being read or changed by another call"):
                patch.apply(files.base, files.patch, in_place=True)
            tried.append(state)

    made = types.ModuleType("taking")
    made.Taking = Taking  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "taking", made)
    monkeypatch.setattr(sys, "path", list(sys.path))
    inputs.load_model(files.base, "--model", "taking:Taking")
    with files.base.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="is being changed by another call of fgunlearn"):
            inputs.load_model(files.base, "--model", "taking:Taking")
    shutil.copyfile(files.patch, files.folder / f".{files.base.name}.applying")
    with pytest.raises(ValueError, match="is going on or was interrupted"):
        inputs.load_model(files.base, "--model", "taking:Taking")
    assert len(tried) == 1


def test_a_lock_ends_with_its_call_whoever_was_forked_meanwhile(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker process that another thread starts, say, inherits what is open."""
    inherited: list[int] = []
    flock = fcntl.flock

    def noted(file: Any, how: int) -> None:
        flock(file, how)
        if not how & fcntl.LOCK_UN:
            inherited.append(os.dup(file.fileno()))

    with monkeypatch.context() as within:
        within.setattr(fcntl, "flock", noted)
        audit.fingerprint(files.base)
        patch.apply(files.base, files.patch, in_place=True)
    assert len(inherited) == 2
    try:
        patch.revert(files.base, files.patch, in_place=True)
    finally:
        for descriptor in inherited:
            os.close(descriptor)


def test_where_the_file_system_has_no_locks_checkpoints_are_read_all_the_same(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(file: Any, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", unknown)
    patch.create(files.base, files.new, files.folder / "p")
    assert (files.folder / "p").read_bytes() == files.patch.read_bytes()
