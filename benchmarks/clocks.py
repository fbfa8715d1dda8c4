"""How one call is timed: on the CPU by the wall, on a CUDA device by events on its stream, with its L2 cache cold."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

Call = Callable[[], object]


class CpuClock:
    """Wall time. Working sets are as warm as the call before left them."""

    def warm_up(self, call: Call) -> float:
        """Runs the call once, uncounted; milliseconds, which include what only a first call pays."""
        return self.milliseconds(call)

    def repeats(self, asked: int, estimate: float) -> int:
        """How often to time a call that takes ``estimate`` milliseconds: as often as was asked."""
        return asked

    def milliseconds(self, call: Call) -> float:
        begin = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - begin)

    def settle(self) -> None:
        """Between comparisons."""

    def fits(self, wanted: float) -> bool:
        """Whether this many bytes can be had; on the CPU the sizes are chosen so that they can."""
        return True


class CudaClock:
    """Time between two events on the current stream.

    Before each call and outside the timed region the L2 cache is made cold: a buffer twice its size is written, so that
    nothing of the call's inputs is left in it, and then another is read, so that the call does not pay for writing
    that buffer back. While the device is busy with this, the host gets ahead: a call of a few launches is timed as the
    device runs it. One that waits for the host, or has more launches than the host can prepare in that time (about
    0.1 ms), is timed with those waits, as its user meets it; a CUDA graph's replay shows the difference.
    """

    def __init__(self, device: torch.device, *, budget_ms: float, least: int, most: int) -> None:
        self._device = device
        self._budget = budget_ms
        self._least = least
        self._most = most
        cache = max(torch.cuda.get_device_properties(device).L2_cache_size, 1 << 22)
        self._written = torch.empty(2 * cache, dtype=torch.uint8, device=device)
        self._read = torch.zeros(cache, dtype=torch.float32, device=device)  # four times the cache
        self._sum = torch.empty((), dtype=torch.float32, device=device)

    def warm_up(self, call: Call) -> float:
        """Runs the call uncounted: once for compilation and memory from the driver, then until it runs as it will.

        A call that is slow without those does not run a third time.
        """
        call()
        torch.cuda.synchronize(self._device)
        estimate = self.milliseconds(call)
        return self.milliseconds(call) if estimate <= self._budget else estimate

    def repeats(self, asked: int, estimate: float) -> int:
        """As often as fits the time set aside for one call, within limits; what was asked for the CPU is no matter."""
        if estimate > self._budget:
            return min(2, self._least)
        return int(min(max(self._budget / max(estimate, 1e-3), self._least), self._most))

    def milliseconds(self, call: Call) -> float:
        self._written.zero_()
        torch.sum(self._read, dim=0, out=self._sum)
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        begin.record()
        kept = call()  # held until the events are in, so that freeing it is not timed
        end.record()
        end.synchronize()
        del kept
        return begin.elapsed_time(end)

    def settle(self) -> None:
        """Gives memory back to the driver: the next comparison's sizes are others."""
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()

    def fits(self, wanted: float) -> bool:
        """Whether this many bytes can be had beside what is allocated, with a twentieth to spare."""
        self.settle()
        free, _ = torch.cuda.mem_get_info(self._device)
        return 1.05 * wanted <= free


def replayed(call: Call) -> Call:
    """``call`` captured into a CUDA graph, when it is first called; from then on the graph is replayed."""
    graphs: list[tuple[torch.cuda.CUDAGraph, object]] = []

    def capture() -> tuple[torch.cuda.CUDAGraph, object]:
        stream = torch.cuda.current_stream()
        side = torch.cuda.Stream()
        side.wait_stream(stream)
        with torch.cuda.stream(side):
            call()  # what a first call initialises cannot be captured
        stream.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                results = call()
        except BaseException:
            torch.cuda.set_stream(stream)  # a capture that fails leaves its own stream the current one
            raise
        return graph, results  # the results' memory is the graph's

    def replay() -> None:
        if not graphs:
            graphs.append(capture())
        graphs[0][0].replay()

    return replay
