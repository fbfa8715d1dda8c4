"""Tasks in worker processes of one thread each, all of which are gone afterwards, whatever happens."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TypeVar

import torch

Task = TypeVar("Task")
Found = TypeVar("Found")


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(
    function: Callable[[Task], Found], tasks: Sequence[Task], jobs: int, tick: Callable[[], None]
) -> list[Found]:
    """What ``function`` returns for each task, in the order in which they end.

    Args:
        function: of a module, so that another process can import it.
        tasks: what it is called with.
        jobs: worker processes; 1 runs in this process, with one thread.
        tick: called when a task has ended.
    """
    results = []
    if jobs == 1:
        threads = torch.get_num_threads()
        _use_one_thread()
        try:
            for task in tasks:
                results.append(function(task))
                tick()
        finally:
            torch.set_num_threads(threads)
        return results
    with workers(jobs) as pool:
        with interrupts_put_off():
            waiting = [pool.submit(function, task) for task in tasks]
        for done in as_completed(waiting):
            results.append(done.result())
            tick()
    return results


@contextmanager
def workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that are all gone when the block ends, also after an error, a worker's death or Ctrl-C."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start_worker)
    try:
        yield pool
    except BaseException:
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    _use_one_thread()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed could not end its workers, and they would go on with their tasks for nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _use_one_thread() -> None:
    """One process per core: more threads than cores only get in each other's way."""
    torch.set_num_threads(1)


@contextmanager
def interrupts_put_off() -> Iterator[None]:
    """Ctrl-C in this block comes at its end; processes that it starts hear none all their life: the parent ends them.

    They inherit that SIGINT is blocked. A handler of its own is for other threads of this process, where it is not.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    resource_tracker.ensure_running()  # which would unblock SIGINT once it has started its process
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
        if heard:
            signal.raise_signal(signal.SIGINT)
