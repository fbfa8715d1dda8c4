"""Runs a function in several processes that form a gloo group."""

from __future__ import annotations

import faulthandler
import multiprocessing
import multiprocessing.forkserver
import os
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

LIMIT = 300.0  # seconds for all ranks together

_PRELOAD = ["torch", "fgunlearn", "torch.distributed.fsdp", "torch.distributed.tensor", "torch.distributed.checkpoint"]


class Outcome:
    """What one rank returned or raised."""

    def __init__(self, value: Any = None, error: str | None = None) -> None:
        self.value = value
        self.error = error


def run_ranks(
    size: int,
    function: Callable[..., Any],
    *arguments: object,
    folder: Path,
    timeout: float = 120.0,
    limit: float = LIMIT,
    expect_death: tuple[int, ...] = (),
) -> list[Outcome]:
    """Calls ``function(rank, *arguments)`` on every rank; what each returned, or its error's type and words.

    ``timeout`` is the group's, ``limit`` that of everything, after which processes are killed and the test fails.
    """
    # Processes fork from a server that has imported torch once and has no other threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    meeting = folder / f"meeting-{size}-{function.__name__}"
    meeting.unlink(missing_ok=True)
    started = []
    for rank in range(size):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=_entry, args=(rank, size, str(meeting), timeout, limit, sender, function, arguments), daemon=True
        )
        process.start()
        sender.close()
        started.append((process, receiver))
    outcomes = []
    try:
        for rank, (process, receiver) in enumerate(started):
            try:
                if not receiver.poll(limit):
                    raise AssertionError(f"rank {rank} of {size} gave no answer within {limit} s")
                value, error = receiver.recv()
                outcomes.append(Outcome(value, error))
            except EOFError:
                process.join(5)
                assert rank in expect_death, f"rank {rank} of {size} died with status {process.exitcode}"
                outcomes.append(Outcome(error="died"))
    finally:
        for process, _ in started:
            process.join(10)
            if process.is_alive():
                process.kill()
    return outcomes


def values(outcomes: list[Outcome]) -> list[Any]:
    """What the ranks returned; none may have raised."""
    for rank, outcome in enumerate(outcomes):
        assert outcome.error is None, f"rank {rank}: {outcome.error}"
    return [outcome.value for outcome in outcomes]


def _entry(
    rank: int,
    size: int,
    meeting: str,
    timeout: float,
    limit: float,
    sender: Any,
    function: Callable[..., Any],
    arguments: tuple[object, ...],
) -> None:
    faulthandler.dump_traceback_later(limit, exit=True)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
    )
    # One that has nothing to do would be gone while others still connect to it, which is an error there.
    torch.distributed.barrier()
    try:
        answer = (function(rank, *arguments), None)
    except Exception as error:
        answer = (None, f"{type(error).__name__}: {error}")
        if os.environ.get("FGUNLEARN_TRACEBACK"):
            traceback.print_exc()
    sender.send(answer)
    sender.close()
    # Not by way of the destructors: gloo's can wait for a thread that waits for the interpreter's lock.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
