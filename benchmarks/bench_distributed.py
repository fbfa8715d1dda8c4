"""Selecting over shards, on 2 and 4 processes of this machine, against one process that selects from one shard.

Floor: one read of a shard, 4 bytes per f32 key. What is beyond the time of a single process is communication (a few
all-reduces of 2050 counters, latency rather than bytes) and the second read that an exact answer takes; where there are
fewer processors than processes and their threads, also the sharing of these. Each process runs one thread, the single
one too. Processes are started once and wait for a word from here, so that a call is timed from here with everything in
it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fgunlearn as fg
from fgunlearn.benchmarks.inputs import normal
from fgunlearn.benchmarks.timing import Report, add_copy

PROCESSES = (2, 4)
_LIMIT = 300.0  # seconds to wait for an answer


def run(report: Report) -> None:
    """All comparisons; a quick run shrinks the sizes a hundredfold."""
    n = 5 * 10**5 if report.quick else 5 * 10**7
    if report.on_cuda:
        report.left_out.append("distributed selection: several processes need a GPU each, and this one is alone")
        return
    add_copy(report, n)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            groups = {size: stack.enter_context(_started(size, n, Path(folder))) for size in PROCESSES}
            _compare(report, n, groups)
    finally:
        torch.set_num_threads(threads)


def _compare(report: Report, n: int, groups: dict[int, Ranks]) -> None:
    keys = _keys(n, 0)
    for what, call, floor in (
        ("top-k", _topk, 4.0 * n),
        ("top-k, all keys equal", _topk_of_equal, 4.0 * n),
        ("Random-k", _randomk, None),
    ):
        peers: dict[str, Callable[[], object]] = {"one process, one shard": lambda call=call: call(keys, None)}
        for size, ranks in groups.items():
            peers[f"fgunlearn, {size} processes"] = lambda ranks=ranks, call=call: ranks.call(call.__name__)
        title = f"{what}, {n:.0e} f32 per process, k = 1%"
        ms = report.compare(title, peers, repeats=3 if report.quick else 9, moved_bytes=floor)
        alone = ms["one process, one shard"]
        for row in report.rows:
            if row.what == title and row.who.startswith("fgunlearn"):
                row.note = f"{row.milliseconds / alone:.2f} x one process"


def _keys(n: int, rank: int) -> dict[str, Tensor]:
    return {"normal": normal(n, "cpu", seed=rank), "equal": torch.ones(n)}


def _topk(keys: dict[str, Tensor], group: Any) -> object:
    return fg.topk([keys["normal"]], ratio=0.01, group=group)


def _topk_of_equal(keys: dict[str, Tensor], group: Any) -> object:
    return fg.topk([keys["equal"]], ratio=0.01, group=group)


def _randomk(keys: dict[str, Tensor], group: Any) -> object:
    return fg.randomk([keys["normal"]], ratio=0.01, group=group)


CALLS = {call.__name__: call for call in (_topk, _topk_of_equal, _randomk)}


class Ranks:
    """Processes that do together what they are told."""

    def __init__(self, connections: list[Any]) -> None:
        self._connections = connections

    def call(self, name: str) -> None:
        """Has all of them call one of ``CALLS``, and waits until they have."""
        for connection in self._connections:
            connection.send(name)
        for rank, connection in enumerate(self._connections):
            if not connection.poll(_LIMIT):
                raise TimeoutError(f"rank {rank} gave no answer within {_LIMIT:g} s")
            failed = connection.recv()
            if failed is not None:
                raise RuntimeError(f"rank {rank}: {failed}")


@contextlib.contextmanager
def _started(size: int, n: int, folder: Path) -> Iterator[Ranks]:
    context = multiprocessing.get_context("spawn")
    started = []
    try:
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_rank, args=(rank, size, n, str(folder / f"meeting-{size}"), theirs), daemon=True
            )
            process.start()
            theirs.close()
            started.append((process, ours))
        yield Ranks([connection for _, connection in started])
    finally:
        for process, connection in started:
            with contextlib.suppress(OSError):
                connection.send(None)
            process.join(10)
            if process.is_alive():
                process.kill()


def _rank(rank: int, size: int, n: int, meeting: str, connection: Any) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=_LIMIT),
    )
    keys = _keys(n, rank)
    group = torch.distributed.group.WORLD
    while (name := connection.recv()) is not None:
        try:
            CALLS[name](keys, group)
            connection.send(None)
        except Exception as error:
            connection.send(f"{type(error).__name__}: {error}")
    os._exit(0)  # gloo's destructors can wait for a thread that waits for the interpreter's lock
