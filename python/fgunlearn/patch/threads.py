"""Work on many tensors by several threads, each tensor by one of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_MOST_THREADS = 8  # beyond, reading is what takes the time

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class Stop:
    """Asked between pieces: another thread has failed, or Ctrl-C came."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def now(self) -> None:
        """Has everybody who asks stop."""
        self._event.set()

    def check(self) -> None:
        """Returns, or ends this piece of work.

        Raises:
            Stopped: it is to end.
        """
        if self._event.is_set():
            raise Stopped


class Stopped(Exception):
    """The work was ended because of another thread; not an error of its own."""


def for_each(items: Iterable[Item], work: Callable[[Item, Stop], Outcome]) -> list[Outcome]:
    """What ``work`` returns for each item, in order; hashing and copying run without the interpreter's lock.

    Raises:
        BaseException: what one of them raised, of several the first item's. By then no work goes on.
    """
    stop = Stop()

    def one(item: Item) -> Outcome:
        try:
            return work(item, stop)
        except BaseException:
            stop.now()
            raise

    threads = min(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, _MOST_THREADS
    )
    with ThreadPoolExecutor(threads, thread_name_prefix="patch") as pool:
        try:
            futures = [pool.submit(one, item) for item in items]
            errors = [future.exception() for future in futures]
        except BaseException:  # Ctrl-C comes here, in the main thread
            stop.now()
            pool.shutdown(cancel_futures=True)
            raise
    own = [error for error in errors if error is not None and not isinstance(error, Stopped)]
    if own:
        raise own[0]
    return [future.result() for future in futures]
