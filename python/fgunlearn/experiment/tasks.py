"""Tasks on one data set in worker processes: the data is decoded once, for all of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from fgunlearn.experiment import data, pool
from fgunlearn.progress import bar

Task = TypeVar("Task")
Found = TypeVar("Found")


def run_tasks(
    function: Callable[[Task], Found],
    tasks_on: Callable[[str], Sequence[Task]],
    source: str,
    jobs: int,
    progress: bool,
) -> tuple[list[Found], int]:
    """What ``function`` returns for each task, in the order in which they end, and the number of processes.

    Args:
        function: of a module, so that another process can import it.
        tasks_on: makes the tasks, for the source that it is given: the decoded data.
        source: see :func:`fgunlearn.experiment.data.read`.
        jobs: worker processes, at most one per task; 0 for one per core.
        progress: show a bar.
    """
    with tempfile.TemporaryDirectory(prefix="fgunlearn-tasks-") as folder:
        decoded = Path(folder) / "data.safetensors"
        data.read_once(source).save(decoded)
        tasks = tasks_on(f"tensors:{decoded}")
        processes = min(jobs or pool.cores(), len(tasks))
        with bar(progress) as display:
            ticker = display.add_task(f"{len(tasks)} tasks on {processes} processes", total=len(tasks))
            return pool.run_all(function, tasks, processes, lambda: display.advance(ticker)), processes
