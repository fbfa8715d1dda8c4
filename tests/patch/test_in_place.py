"""Changing a checkpoint where it lies: the journal, and what takes a change back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoints import Files, changed, contents, random_tensor, refused_unchanged, write, write_sharded
from fgunlearn import audit, checkpoint_files, patch
from fgunlearn.patch import in_place

TENSORS = {"w": random_tensor("F32", (5, 7), 1), "b": random_tensor("BF16", (9,), 2), "n": random_tensor("I64", ())}
APPLYING, REVERTING = ".base.safetensors.applying", ".base.safetensors.reverting"


@pytest.fixture(params=["nothing", "some", "everything"])
def unfinished(request: pytest.FixtureRequest, files: Files) -> Files:
    """The base after a crash in the middle of a change, with so much of it done."""
    was, now = files.base.read_bytes(), files.new.read_bytes()
    places = [place for place in range(len(was)) if was[place] != now[place]]
    done = {"nothing": 0, "some": len(places) // 2, "everything": len(places)}[request.param]
    held = bytearray(was)
    for place in places[:done]:
        held[place] = now[place]
    files.base.write_bytes(held)
    shutil.copyfile(files.patch, files.folder / APPLYING)
    (files.folder / "was").write_bytes(was)
    return files


def _was(files: Files) -> bytes:
    return (files.folder / "was").read_bytes()


def test_recover_takes_back_what_was_begun(unfinished: Files) -> None:
    assert patch.recover(unfinished.base) is True
    assert unfinished.base.read_bytes() == _was(unfinished)
    assert APPLYING not in contents(unfinished.folder)
    before = contents(unfinished.folder)
    assert patch.recover(unfinished.base) is False
    assert contents(unfinished.folder) == before


def test_applying_again_does_the_whole_of_it(unfinished: Files) -> None:
    patch.apply(unfinished.base, unfinished.patch, in_place=True)
    assert unfinished.base.read_bytes() == unfinished.new.read_bytes()
    assert APPLYING not in contents(unfinished.folder)


@pytest.mark.parametrize("back", [False, True])
def test_the_journal_s_name_says_to_which_end_a_change_is_taken_back(files: Files, back: bool) -> None:
    was, now = files.base.read_bytes(), files.new.read_bytes()
    files.base.write_bytes(was[: len(was) // 2] + now[len(was) // 2 :])
    shutil.copyfile(files.patch, files.folder / (REVERTING if back else APPLYING))
    assert patch.recover(files.base) is True
    assert files.base.read_bytes() == (now if back else was)
    assert len(contents(files.folder)) == 3


def test_the_other_direction_takes_it_back_first_and_is_then_refused(unfinished: Files) -> None:
    with pytest.raises(ValueError, match="is not the result of"):
        patch.revert(unfinished.base, unfinished.patch, in_place=True)
    assert unfinished.base.read_bytes() == _was(unfinished)
    assert APPLYING not in contents(unfinished.folder)


def test_an_unfinished_checkpoint_is_of_no_other_use(unfinished: Files) -> None:
    folder, base, new, path = unfinished
    (folder / "link").symlink_to(base)
    for given in (base, folder / "link"):
        for call in (
            lambda given=given: patch.create(given, new, folder / "other"),
            lambda given=given: patch.create(new, given, folder / "other"),
            lambda given=given: patch.apply(given, path, folder / "out"),
            lambda given=given: patch.revert(given, path, folder / "out"),
        ):
            with refused_unchanged(folder, ValueError, base.name, "interrupted", APPLYING, "recover"):
                call()
    with refused_unchanged(folder, ValueError, "out", base, "interrupted", APPLYING, "recover"):
        patch.revert(new, path, base)  # its journal would be taken for one of the new file


def test_a_checkpoint_that_something_else_changed_is_not_touched(unfinished: Files) -> None:
    """To put the old values into whatever lies there would spoil it: another file may have been put there."""
    held = bytearray(unfinished.base.read_bytes())
    held[-1] ^= 1
    unfinished.base.write_bytes(held)
    for call in (
        lambda: patch.recover(unfinished.base),
        lambda: patch.apply(unfinished.base, unfinished.patch, in_place=True),
    ):
        with refused_unchanged(unfinished.folder, ValueError, "'n'", "something else", APPLYING):
            call()


def test_a_journal_of_other_tensors_or_none_at_all_is_refused(files: Files) -> None:
    other = write(files.folder / "other", {"t": random_tensor("U8", (3,))})
    patch.create(other, other, files.folder / APPLYING)
    with refused_unchanged(files.folder, ValueError, APPLYING, "'w'"):
        patch.recover(files.base)
    (files.folder / APPLYING).write_bytes(files.patch.read_bytes()[:-1])
    with refused_unchanged(files.folder, ValueError, APPLYING, "cut off"):
        patch.recover(files.base)
    (files.folder / APPLYING).unlink()
    (files.folder / APPLYING).symlink_to(files.patch)
    with refused_unchanged(files.folder, ValueError, APPLYING, "symbolic link"):
        patch.recover(files.base)


@pytest.mark.parametrize("in_index", [True, False])
def test_a_sharded_checkpoint_is_recovered_as_a_whole(tmp_path: Path, in_index: bool) -> None:
    shards = {"1.safetensors": TENSORS, "2.safetensors": {"more": random_tensor("U8", (99,))}}
    base = write_sharded(tmp_path / "base", shards)
    new = write_sharded(tmp_path / "new", {name: changed(tensors) for name, tensors in shards.items()})
    was = contents(tmp_path / "base")
    patch.create(base, new, tmp_path / "p")
    shutil.copyfile(tmp_path / "p", base.with_name(f".{base.name}.applying"))
    shutil.copyfile(tmp_path / "new" / "2.safetensors", tmp_path / "base" / "2.safetensors")
    if in_index:
        assert patch.recover(base) is True
        assert contents(tmp_path / "base") == was
    else:
        patch.apply(base, tmp_path / "p", in_place=True)
        assert contents(tmp_path / "base") == contents(tmp_path / "new")


def test_the_file_stays_the_same_file_and_one_without_changes_is_not_written(files: Files) -> None:
    before = files.base.stat()
    patch.apply(files.base, files.patch, in_place=True)
    assert files.base.stat().st_ino == before.st_ino
    patch.create(files.base, files.new, files.folder / "nothing")
    written = files.base.stat().st_mtime_ns
    assert patch.apply(files.base, files.folder / "nothing", in_place=True).changed == 0
    assert files.base.stat().st_mtime_ns == written


def test_a_patch_that_is_replaced_meanwhile_changes_nothing(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files.base.read_bytes()
    check = in_place._check
    other = patch.create(files.new, files.base, files.folder / "other").path

    def replaced(*arguments: Any) -> None:
        check(*arguments)
        other.replace(files.patch)

    monkeypatch.setattr(in_place, "_check", replaced)
    with pytest.raises(ValueError, match="has changed while it was read"):
        patch.apply(files.base, files.patch, in_place=True)
    assert files.base.read_bytes() == before
    assert len(contents(files.folder)) == 3


# Ctrl-C, at each step that writes something; crashes at any moment are in test_crashes.py.


def _raise(*arguments: Any, **named: Any) -> None:
    raise KeyboardInterrupt


def _after(work: Callable[..., Any]) -> Callable[..., Any]:
    """Once; then as ever."""
    calls = iter([True])

    def interrupted(*arguments: Any, **named: Any) -> Any:
        done = work(*arguments, **named)
        if next(calls, False):
            raise KeyboardInterrupt
        return done

    return interrupted


STEPS = {
    "checking": ("_check", None),
    "writing the journal": ("_journalled", None),
    "writing the values": ("let_go", 2),
    "with all values written": ("_put", None),
    "removing the journal": ("_remove", None),
}


@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_leaves_the_old_file_or_the_new_one_and_no_litter(
    files: Files, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_files, "PIECE", 16)
    before, now = contents(files.folder), files.new.read_bytes()
    name = STEPS[step][0]
    monkeypatch.setattr(in_place, name, _after(getattr(in_place, name)))
    with pytest.raises(KeyboardInterrupt):
        patch.apply(files.base, files.patch, in_place=True)
    if step == "removing the journal":
        before[files.base.name] = now
    assert contents(files.folder) == before


def test_ctrl_c_while_the_journal_is_copied_leaves_nothing(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(files.folder)
    monkeypatch.setattr(shutil, "copyfile", _raise)
    with pytest.raises(KeyboardInterrupt):
        patch.apply(files.base, files.patch, in_place=True)
    assert contents(files.folder) == before


def test_ctrl_c_twice_leaves_the_journal_for_the_next_call(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    was = files.base.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(in_place, "_put", _after(in_place._put))
        patched.setattr(in_place, "_check_end", _raise)
        with pytest.raises(KeyboardInterrupt):
            patch.apply(files.base, files.patch, in_place=True)
    assert contents(files.folder)[APPLYING] == files.patch.read_bytes()
    assert patch.recover(files.base) is True
    assert files.base.read_bytes() == was


# Others at the same checkpoint.


def test_a_file_of_a_sharded_checkpoint_is_none_of_its_own_while_a_change_by_the_index_is_unfinished(
    files: Files, tmp_path: Path
) -> None:
    """And the other way round: taken back later, it would take values with it that somebody has changed since."""
    index = write_sharded(tmp_path / "sharded", {"one.safetensors": {"w": TENSORS["w"]}, "two": {"b": TENSORS["b"]}})
    shard = index.with_name("one.safetensors")
    new = write(tmp_path / "new_shard", changed({"w": TENSORS["w"]}))
    patch.create(shard, new, tmp_path / "of_shard")
    after = write_sharded(tmp_path / "other", {"one": changed({name: TENSORS[name] for name in "wb"})})
    patch.create(index, after, tmp_path / "of_index")
    for name, call in (
        (f".{index.name}.applying", lambda: patch.apply(shard, tmp_path / "of_shard", in_place=True)),
        (f".{index.name}.applying", lambda: patch.apply(shard, tmp_path / "of_shard", tmp_path / "out")),
        (f".{index.name}.applying", lambda: patch.recover(shard)),
        (f".{shard.name}.applying", lambda: patch.apply(index, tmp_path / "of_index", in_place=True)),
        (f".{shard.name}.applying", lambda: patch.recover(index)),
        (f".{shard.name}.applying", lambda: audit.fingerprint(index)),
    ):
        shutil.copyfile(tmp_path / "of_shard", index.with_name(name))
        with refused_unchanged(index.parent, ValueError, "is going on or was interrupted", name):
            call()
        index.with_name(name).unlink()


def test_who_must_not_read_the_checkpoint_must_not_read_what_is_made_of_it(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.base.chmod(0o640)
    assert patch.create(files.base, files.new, files.folder / "secret").path.stat().st_mode & 0o777 == 0o640
    patch.apply(files.base, files.patch, files.folder / "out")
    assert (files.folder / "out").stat().st_mode & 0o777 == 0o640
    modes = []
    put = in_place._put

    def seen(*given: Any) -> None:
        modes.append((files.folder / APPLYING).stat().st_mode & 0o777)
        put(*given)

    monkeypatch.setattr(in_place, "_put", seen)
    patch.apply(files.base, files.patch, in_place=True)
    assert modes == [0o640]
