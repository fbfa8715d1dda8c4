"""A comparison that was killed goes on within a training, bit for bit."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

import fgunlearn as fg
from fgunlearn import machine, methods
from fgunlearn.experiment import trained
from fgunlearn.experiment.compare import comparison as comparisons
from fgunlearn.experiment.compare import trial
from fgunlearn.experiment.compare.comparison import Comparison, FolderInUseError
from fgunlearn.experiment.compare.entries import parse
from fgunlearn.experiment.requests import Request
from fgunlearn.resuming import CheckpointError, file
from interrupted import Killed, killed_after

TIMES = ("seconds", "phases", "acceleration", "predicted_acceleration", "prediction_error")
EVERY = 3


@pytest.fixture(scope="module")
def small(comparison: Comparison) -> Comparison:
    """One request and seed; the methods have steps of every kind, and none."""
    entries = ("finetune:epochs=3", "topk", "neggrad_plus:epochs=1", "ssd:alpha=2")
    return replace(
        comparison,
        requests=(Request("random"),),
        seeds=(0,),
        entries=tuple(map(parse, entries)),
        relearn=False,
        checkpoint_every=EVERY,
    )


@contextmanager
def counted_steps(taken: list[None]) -> Iterator[None]:
    """Adds one entry for each step of any optimizer inside."""
    handle = register_optimizer_step_post_hook(lambda *_: taken.append(None))
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def whole(small: Comparison, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], int]:
    """The rows of a run that nothing interrupts and that writes no checkpoint, and its steps."""
    taken: list[None] = []
    with counted_steps(taken):
        results = comparisons.run(
            replace(small, checkpoint_every=10**6), tmp_path_factory.mktemp("whole") / "out", progress=False
        )
    return timeless(results), len(taken)


def timeless(results: dict[str, Any]) -> list[dict[str, Any]]:
    rows = json.loads(json.dumps(results["rows"]))
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def left(folder: Path) -> list[str]:
    """Which trainings have a checkpoint, by the middle of their names."""
    return sorted(path.name.split("-")[3] for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("share", [0.05, 0.3, 0.45, 0.6, 0.8, 0.97])
def test_wherever_it_was_killed_the_rows_are_the_same(
    small: Comparison, whole: tuple[list[Any], int], tmp_path: Path, share: float
) -> None:
    rows, steps = whole
    with pytest.raises(Killed), killed_after(int(share * steps)):
        comparisons.run(small, tmp_path / "out", progress=False)
    done = {path.name.split("-")[3] for path in (tmp_path / "out" / "runs").glob("*.json")}
    assert not set(left(tmp_path / "out")) & done
    assert timeless(comparisons.run(small, tmp_path / "out", progress=False)) == rows
    assert not (tmp_path / "out" / "checkpoints").exists()


def hooked(monkeypatch: pytest.MonkeyPatch, place: str, kill_after: int | None = None) -> list[None]:
    """Steps within a place are counted, and end with a kill: in trainings from scratch, or in the first method."""
    taken: list[None] = []

    def hook(real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def run(*given: Any, **named: Any) -> Any:
            with counted_steps(taken), contextlib.nullcontext() if kill_after is None else killed_after(kill_after):
                return real(*given, **named)

        return run

    if place == "source":
        monkeypatch.setattr(trained, "train", hook(trained.train))
    else:
        monkeypatch.setitem(methods._METHODS, "finetune", hook(methods.finetune))
    return taken


@pytest.mark.parametrize("place", ["source", "finetune"])
def test_no_more_steps_are_lost_than_between_two_checkpoints(
    small: Comparison, whole: tuple[list[Any], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    with monkeypatch.context() as within:
        hooked(within, place, 2 * EVERY + 2)
        with pytest.raises(Killed):
            comparisons.run(small, tmp_path / "out", progress=False)
    assert place in left(tmp_path / "out")
    taken = hooked(monkeypatch, place)
    assert timeless(comparisons.run(small, tmp_path / "out", progress=False)) == whole[0]
    sizes = whole[0][0]["sizes"]
    source, retrained = (small.training.steps(n) for n in (sizes["forget"] + sizes["retain"], sizes["retain"]))
    whole_steps = {"source": source + retrained, "finetune": 3 * retrained // small.training.epochs}[place]
    assert len(taken) == whole_steps - 2 * EVERY


def killed_by_the_system(small: Comparison, folder: Path, step: int) -> None:
    with killed_after(step, by_signal=True):
        comparisons.run(replace(small, jobs=1), folder, progress=False)


def test_it_goes_on_after_a_kill_in_another_process(
    small: Comparison, whole: tuple[list[Any], int], tmp_path: Path
) -> None:
    """Killed twice: in the source's training, and some steps later."""
    rows, steps = whole
    spawning = multiprocessing.get_context("spawn")
    for step in (steps // 4, steps // 2):
        process = spawning.Process(target=killed_by_the_system, args=(small, tmp_path / "out", step))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert timeless(comparisons.run(small, tmp_path / "out", progress=False)) == rows
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_the_time_of_a_killed_training_counts(small: Comparison, tmp_path: Path) -> None:
    """The yardstick of every acceleration is not the rest of a training."""
    with pytest.raises(Killed), killed_after(EVERY + 1):
        comparisons.run(small, tmp_path / "out", progress=False)
    (checkpoint,) = (tmp_path / "out" / "checkpoints").iterdir()
    held = file.read(checkpoint, "train")
    held.facts["state"]["seconds"] = 1000.0
    file.write(checkpoint, held)
    results = comparisons.run(small, tmp_path / "out", progress=False)
    source = next(row for row in results["rows"] if row["name"] == "source")
    assert 1000.0 < source["seconds"] < 1100.0


@pytest.mark.parametrize("place", ["source", "finetune"])
def test_a_damaged_checkpoint_is_an_error_and_no_result(
    small: Comparison, whole: tuple[list[Any], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folder = tmp_path / "out"
    with monkeypatch.context() as within:
        hooked(within, place, EVERY + 1)
        with pytest.raises(Killed):
            comparisons.run(small, folder, progress=False)
    rows = sorted((folder / "runs").iterdir())
    for checkpoint in (folder / "checkpoints").iterdir():
        checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"checkpoints/.*\.safetensors is not a checkpoint, or damaged"):
        comparisons.run(small, folder, progress=False)
    assert sorted((folder / "runs").iterdir()) == rows
    for checkpoint in (folder / "checkpoints").iterdir():
        checkpoint.unlink()
    assert timeless(comparisons.run(small, folder, progress=False)) == whole[0]


def test_an_interval_below_one_is_refused_before_anything_is_made(small: Comparison, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"checkpoint_every must be .*1.* got 0"):
        comparisons.run(replace(small, checkpoint_every=0), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_run_with_other_methods_leaves_what_is_in_work(
    small: Comparison, whole: tuple[list[Any], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And takes away what a kill left half-written."""
    folder = tmp_path / "out"
    with monkeypatch.context() as within:
        hooked(within, "finetune", EVERY + 1)
        with pytest.raises(Killed):
            comparisons.run(small, folder, progress=False)
    begun = folder / "checkpoints" / f".random-0.1-seed0-topk-0123.safetensors.{'a' * 16}.part"
    begun.write_bytes(b"begun")
    comparisons.run(replace(small, entries=(parse("ssd:alpha=2"),)), folder, progress=False)
    assert left(folder) == ["finetune"]
    assert not begun.exists()
    taken = hooked(monkeypatch, "finetune")
    assert timeless(comparisons.run(small, folder, progress=False)) == whole[0]
    assert len(taken) == 3 * (whole[0][0]["sizes"]["retain"] // small.training.batch) - EVERY


def test_of_two_runs_in_one_folder_the_second_is_refused(small: Comparison, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    one = replace(small, entries=(parse("ssd:alpha=2"),))
    comparisons.run(one, folder, progress=False)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    descriptor = os.open(folder / ".lock", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(FolderInUseError, match=f"another comparison is at work in {re.escape(str(folder))}: wait"):
            comparisons.run(small, folder, progress=False)
    finally:
        os.close(descriptor)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    comparisons.run(one, folder, progress=False)


def test_what_a_kill_left_of_a_kept_model_goes(small: Comparison, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    one = replace(small, entries=(parse("ssd:alpha=2"),))
    comparisons.run(one, folder, progress=False)
    (folder / "checkpoints").mkdir()
    left_over = folder / "checkpoints" / "random-0.1-seed0-source-0123-4567.safetensors"
    left_over.write_bytes(b"")
    comparisons.run(one, folder, progress=False)
    assert not (folder / "checkpoints").exists()


def test_a_generator_in_work_is_left_to_the_methods_that_go_on_with_it(
    small: Comparison, whole: tuple[list[Any], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    some = replace(small, gan={**small.gan, "fitting": replace(small.gan["fitting"], steps=EVERY + 2)})
    one = replace(some, entries=(parse("ssd:alpha=2"),))
    comparisons.run(one, folder, progress=False)
    with monkeypatch.context() as within:
        hooked(within, "finetune", EVERY + 1)
        with pytest.raises(Killed):
            comparisons.run(some, folder, progress=False)
    assert left(folder) == ["finetune", "spdgan"]
    comparisons.run(one, folder, progress=False)
    assert left(folder) == ["finetune", "spdgan"]
    comparisons.run(some, folder, progress=False)
    assert not (folder / "checkpoints").exists()


def test_a_machine_with_other_cores_trains_anew(
    small: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a model is kept under, and so what it is gone on from, is that of this machine."""
    with monkeypatch.context() as within:
        hooked(within, "source", EVERY + 1)
        with pytest.raises(Killed):
            comparisons.run(small, tmp_path / "out", progress=False)
    there = machine.describe()
    monkeypatch.setattr(trained.machine, "describe", lambda: {**there, "cores": there["cores"] + 1})
    taken = hooked(monkeypatch, "source")
    comparisons.run(small, tmp_path / "out", progress=False)
    assert len(taken) > EVERY


def test_a_place_for_checkpoints_that_is_gone_is_no_failure_of_a_method(
    small: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(task: trial.Task, name: str, options: Any = None) -> fg.Checkpoint:
        return fg.Checkpoint(tmp_path / ("nowhere" if name.startswith("finetune") else "out") / f"{name}.checkpoint", 3)

    monkeypatch.setattr(trial.Task, "checkpoint", gone)
    with pytest.raises(CheckpointError, match="there is no folder"):
        comparisons.run(small, tmp_path / "out", progress=False)
    assert not list((tmp_path / "out" / "runs").glob("*finetune*"))
