"""The command line with --checkpoint."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from command_line import Run, as_options, refused
from interrupted import Killed, killed_after
from spdgan_commands import ARCHITECTURE, network
from spdgan_commands import train as train_command

pytestmark = pytest.mark.usefixtures("_one_thread")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an architecture, its weights, data of 60 rows, held-out data, and the ids of rows to forget."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "architecture", raising=False)
    (tmp_path / "architecture.py").write_text(ARCHITECTURE)
    torch.manual_seed(0)
    save_file(network().state_dict(), tmp_path / "model.safetensors")
    for name in ("data", "heldout"):
        y = torch.arange(60) % 3
        x = torch.randn(60, 6)
        x[torch.arange(60), y] += 2.0
        save_file({"x": x, "y": y}, tmp_path / f"{name}.safetensors")
    (tmp_path / "ids.txt").write_text("3\n10\n17\n22\n29\n")
    return tmp_path


def unlearn(**changes: object) -> list[object]:
    files = {name: f"{name}.safetensors" for name in ("model", "data", "heldout", "out")}
    return ["unlearn", *as_options({**files, "forget": "ids.txt", "arch": "architecture:make", "batch": 8, **changes})]


@pytest.mark.parametrize("recipe", ["auto", "heldout"])
def test_unlearn_goes_on_when_the_same_command_is_given_again(run: Run, work: Path, recipe: str) -> None:
    assert run(*unlearn(out="whole.safetensors", recipe=recipe))[0] == 0
    before = sorted(work.iterdir())
    command = unlearn(recipe=recipe, checkpoint="run.ckpt", checkpoint_every=3)
    with pytest.raises(Killed), killed_after(8):
        run(*command)
    assert sorted(work.iterdir()) == sorted([*before, work / "run.ckpt"])
    status, out, error = run(*command)
    assert status == 0
    assert "Written to out.safetensors" in " ".join(out.split())
    assert error == "fgunlearn: going on from run.ckpt, after step 6\n"
    assert (work / "out.safetensors").read_bytes() == (work / "whole.safetensors").read_bytes()
    assert sorted(work.iterdir()) == sorted([*before, work / "out.safetensors"])


@pytest.mark.parametrize("option", ["out", "save_selection", "patch", "audit"])
def test_unlearn_keeps_the_checkpoint_until_all_is_written(
    run: Run, work: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    assert run(*unlearn(out="whole.safetensors", recipe="heldout"))[0] == 0
    more = {} if option == "out" else {option: "more", **({"relearn_steps": 0} if option == "audit" else {})}
    command = unlearn(recipe="heldout", checkpoint="run.ckpt", checkpoint_every=3, **more)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writes = {
        "out": "fgunlearn.cli.unlearn._write",
        "save_selection": "fgunlearn.selection.Selection.save",
        "patch": "fgunlearn.cli.unlearn.create",
        "audit": "fgunlearn.cli.recording.Recording.write",
    }
    with monkeypatch.context() as patched:
        patched.setattr(writes[option], full)
        assert run(*command)[0] != 0
    assert (work / "run.ckpt").exists()
    assert not (work / "out.safetensors").exists()
    status, _, error = run(*command)
    assert status == 0
    assert "going on from run.ckpt" in error
    assert (work / "out.safetensors").read_bytes() == (work / "whole.safetensors").read_bytes()
    assert not (work / "run.ckpt").exists()


def test_unlearn_notices_other_data_in_rows_that_no_step_had_last(run: Run, work: Path) -> None:
    with pytest.raises(Killed), killed_after(8):
        run(*unlearn(checkpoint="run.ckpt", checkpoint_every=3))
    held = load_file(work / "data.safetensors")
    for row in (0, 40):
        changed = held["x"].clone()
        changed[row] += 1.0
        save_file({**held, "x": changed}, work / "data.safetensors")
        refused(run(*unlearn(checkpoint="run.ckpt")), "the data (checkpoint.data) is not what it was")


def test_spdgan_train_keeps_the_checkpoint_until_all_is_written(
    run: Run, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    command = train_command(steps=10, checkpoint="run.ckpt", checkpoint_every=3)
    with monkeypatch.context() as patched:
        patched.setattr("fgunlearn.cli.spdgan.SPDGAN.save", full)
        assert run(*command)[0] != 0
    assert (work / "run.ckpt").exists()
    assert run(*command)[2] == "fgunlearn: going on from run.ckpt, after step 9\n"
    assert not (work / "run.ckpt").exists()


def test_unlearn_names_what_is_not_as_it_was(run: Run, work: Path) -> None:
    with pytest.raises(Killed), killed_after(8):
        run(*unlearn(checkpoint="run.ckpt", checkpoint_every=3))
    held = (work / "run.ckpt").read_bytes()
    refused(run(*unlearn(checkpoint="run.ckpt", lr=0.5)), "run.ckpt is of another call", "repair.lr was", "and is 0.5")
    (work / "ids.txt").write_text("3\n10\n17\n22\n28\n")
    refused(run(*unlearn(checkpoint="run.ckpt")), "the data of forget_loader is not what it was")
    assert (work / "run.ckpt").read_bytes() == held
    assert not (work / "out.safetensors").exists()


def test_spdgan_train_goes_on_when_the_same_command_is_given_again(run: Run, work: Path) -> None:
    assert run(*train_command(out="whole.safetensors", steps=10))[0] == 0
    before = sorted(work.iterdir())
    command = train_command(steps=10, checkpoint="run.ckpt", checkpoint_every=3)
    with pytest.raises(Killed), killed_after(8, steps_of_optimizers=2):
        run(*command)
    assert sorted(work.iterdir()) == sorted([*before, work / "run.ckpt"])
    status, _, error = run(*command)
    assert status == 0
    assert error == "fgunlearn: going on from run.ckpt, after step 6\n"
    assert sorted(work.iterdir()) == sorted([*before, work / "gan.safetensors"])
    assert tensors(work / "gan.safetensors") == tensors(work / "whole.safetensors")


def tensors(path: Path) -> bytes:
    """What follows the header, which has the seconds in it."""
    held = path.read_bytes()
    return held[8 + int.from_bytes(held[:8], "little") :]


@pytest.mark.parametrize("command", [unlearn, train_command])
@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"checkpoint_every": 5}, ["--checkpoint-every is about --checkpoint", "5"]),
        ({"checkpoint": "run.ckpt", "checkpoint_every": 0}, ["--checkpoint-every", "0"]),
        ({"checkpoint": "nowhere/run.ckpt"}, ["--checkpoint: there is no folder nowhere"]),
        ({"checkpoint": "."}, ["--checkpoint: . is a folder"]),
        ({"checkpoint": "model.safetensors"}, ["--checkpoint: model.safetensors is the file of --model"]),
        ({"checkpoint": "architecture.py"}, ["architecture.py is not a checkpoint, or damaged"]),
    ],
)
def test_the_option_and_the_value_are_named(
    run: Run, work: Path, command: object, changes: dict[str, object], parts: list[str]
) -> None:
    assert callable(command)
    before = {path: path.read_bytes() for path in work.iterdir()}
    refused(run(*command(**changes)), *parts)
    after = {path: path.read_bytes() for path in work.iterdir() if path.is_file() and path.name != "made"}
    assert after == before
