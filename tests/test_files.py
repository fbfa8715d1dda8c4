from __future__ import annotations

import os
from pathlib import Path

import pytest

from fgunlearn.files import begun_beside, replacing


def test_the_file_takes_the_place_of_the_old_one_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("old")
    with replacing(target) as temporary:
        assert temporary.parent == tmp_path  # a rename is atomic within one file system only
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existed", [True, False])
def test_after_an_error_everything_is_as_it_was(tmp_path: Path, error: type[BaseException], existed: bool) -> None:
    target = tmp_path / "out"
    if existed:
        target.write_text("old")

    def write() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert [path.read_text() for path in tmp_path.iterdir()] == (["old"] if existed else [])


def test_the_bytes_are_on_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (calls.append("rename"), replace(self, to)))
    with replacing(tmp_path / "out") as temporary:
        temporary.write_text("new")
    assert calls == ["fsync", "rename", "fsync"]  # the file, and then the folder that names it


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_the_new_file_has_the_old_ones_permissions(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "out"
    target.write_text("old")
    target.chmod(mode)
    with replacing(target) as temporary:
        temporary.write_text("new")
    assert target.stat().st_mode & 0o777 == mode


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"), replacing(tmp_path / "nowhere" / "out"):
        pass


def test_what_a_killed_process_left_is_found_by_the_file_s_own_name(tmp_path: Path) -> None:
    for name in ("out", "[o]ut", "out.2"):
        with replacing(tmp_path / name) as temporary:
            assert begun_beside(tmp_path / name) == [temporary]
            assert name == "out" or begun_beside(tmp_path / "out") == []
    assert [begun_beside(path) for path in tmp_path.iterdir()] == [[], [], []]
