from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch

from fgunlearn.experiment import pool


def _square(task: int) -> int:
    return task * task


def _threads(task: int) -> int:
    return torch.get_num_threads()


def _die(task: int) -> int:
    os._exit(3)


def _refuse(task: int) -> int:
    raise ValueError(f"no {task}")


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_task_is_run_once_and_ticks_once(jobs: int) -> None:
    ticks: list[None] = []
    assert sorted(pool.run_all(_square, range(5), jobs, lambda: ticks.append(None))) == [0, 1, 4, 9, 16]
    assert len(ticks) == 5


@pytest.mark.parametrize("jobs", [1, 2])
def test_tasks_have_one_thread_each_and_this_process_keeps_its_own(jobs: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert pool.run_all(_threads, range(2), jobs, lambda: None) == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_worker_that_dies_ends_the_run() -> None:
    with pytest.raises(BrokenProcessPool):
        pool.run_all(_die, range(2), 2, lambda: None)


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_in_a_task_comes_out_as_it_is(jobs: int) -> None:
    with pytest.raises(ValueError, match="no 7"):
        pool.run_all(_refuse, [7], jobs, lambda: None)


_SLEEPERS = """
import os, sys, time
from pathlib import Path
from fgunlearn.experiment import pool

def sleep(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    pool.run_all(sleep, [sys.argv[1]] * 2, 2, lambda: None)
"""


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script, started = tmp_path / "sleepers.py", tmp_path / "started"
    script.write_text(_SLEEPERS)
    started.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(started)])
    assert _within(60, lambda: len(list(started.iterdir())) == 2)
    workers = [int(path.name) for path in started.iterdir()]
    assert all(map(_is_running, workers))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert _within(30, lambda: not any(map(_is_running, workers)))


def _interrupt_itself(task: int) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return task


def test_workers_hear_no_ctrl_c() -> None:
    assert sorted(pool.run_all(_interrupt_itself, range(2), 2, lambda: None)) == [0, 1]


@pytest.fixture
def _ctrl_c_raises() -> Iterator[None]:
    """Where the tests themselves were started in the background, it does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_raises")
def test_ctrl_c_while_workers_start_is_put_off_and_not_lost() -> None:
    reached = []

    def interrupted() -> None:
        with pool.interrupts_put_off():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            reached.append("the block's end")
        time.sleep(0.05)
        reached.append("too far")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert reached == ["the block's end"]
    with pytest.raises(KeyboardInterrupt):  # as before
        signal.raise_signal(signal.SIGINT)
