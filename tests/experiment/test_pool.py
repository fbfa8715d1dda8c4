from __future__ import annotations

import os
from concurrent.futures.process import BrokenProcessPool

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
