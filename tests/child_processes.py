"""Work in a fork of this process, with all that is imported: to be killed, interrupted, or short of something."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any


def fork(work: Callable[[], Any]) -> int:
    """The child's process id. It ends with 0, 130 after Ctrl-C, and 1 after another error, without any clean-up."""
    # Ctrl-C waits until the child can tell of it; pytest, whose copy it is, would do so in its own way.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    child = -1
    try:
        child = os.fork()
    finally:
        if child:  # the parent, or nobody's
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if child:
        return child
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        work()
        status = 0
    except KeyboardInterrupt:
        status = 130
    finally:
        os._exit(status)


def ended(child: int) -> int:
    """Waits for a child: its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_until(condition: Callable[[], bool], child: int) -> None:
    """Returns when it holds, or the child has ended."""
    while not condition() and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0)


def seconds(work: Callable[[], Any], after: Callable[[], bool] = lambda: True) -> float:
    """How long a child takes that nobody disturbs, counted from when something has come about."""
    child = fork(work)
    wait_until(after, child)
    begin = time.perf_counter()
    assert ended(child) == 0
    return time.perf_counter() - begin


def signalled(work: Callable[[], Any], delay: float, number: int, after: Callable[[], bool] = lambda: True) -> int:
    """How a child ends that is sent a signal so many seconds after something has come about."""
    child = fork(work)
    wait_until(after, child)
    time.sleep(delay)
    os.kill(child, number)
    return ended(child)
