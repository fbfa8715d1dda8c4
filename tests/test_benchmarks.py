"""The benchmarks: what a report says, and that those for a GPU run, as far as a CPU can tell."""

from __future__ import annotations

import importlib
import json
import math
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fgunlearn.benchmarks import bench_select_cuda, clocks, floors, timing
from fgunlearn.benchmarks.cub_topk import peer
from fgunlearn.benchmarks.timing import Report
from fgunlearn.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process: exit status, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fgunlearn", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        output = capsys.readouterr()
        return int(stop.value.code or 0), output.out, output.err

    return call


@pytest.mark.parametrize("name", ["bracket", "score", "perturb", "update", "streaming", "distributed"])
def test_a_quick_run_prints_a_table_and_writes_it(run: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / "figures.json"
    status, out, error = run("bench", name, "--quick", "--json", path, "--commit", "abc1234")
    assert (status, error) == (0, "")
    held = json.loads(path.read_text())
    assert (held["name"], held["device"], held["quick"], held["failures"]) == (name, "cpu", True, [])
    assert held["machine"]["commit"] == "abc1234"
    assert held["copy_gigabytes_per_second"] > 0
    for row in held["rows"]:
        assert row["milliseconds"] > 0
        if row["floor_ms"] is not None:
            assert row["who"].startswith("fgunlearn")
            assert row["over_floor"] == pytest.approx(row["milliseconds"] / row["floor_ms"])
            assert row["copy_share"] == pytest.approx(1 / row["over_floor"])
            assert row["floor_ms"] == pytest.approx(row["moved_bytes"] / held["copy_gigabytes_per_second"] / 1e6)
    assert "x floor" in out


def test_a_profile_names_every_call_and_gives_no_figures(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    status, out, _ = run("bench", "score", "--quick", "--profile", path)
    assert status == 0
    assert "x floor" not in out
    names = [event.get("name", "") for event in json.loads(path.read_text())["traceEvents"]]
    assert names.count("abs_grad, 1e+06 f32: fgunlearn") == 1
    assert any("aten::add_" in name for name in names)


def test_the_comparisons_for_a_gpu_run_on_any_device(threads: Callable[[int], None]) -> None:
    threads(1)
    report = timing.start("select", quick=True, traced=True)  # once each
    timing.add_copy(report, 1000)
    bench_select_cuda.compare_all(report, part=10_000)
    assert report.failures == []
    assert [why.partition(":")[0] for why in report.left_out] == ["cub"]  # needs a GPU
    shares = {f"k = {share:.2%}" for share in bench_select_cuda.SHARES}
    for size in ("1e+05 f32", "7e+05 bf16"):
        rows = [row for row in report.rows if row.what.startswith(f"top-k, {size}")]
        assert {row.what.rpartition(", ")[2] for row in rows} == shares
        assert {"fgunlearn", "fgunlearn, packed", "torch.topk", "x.sum()"} <= {row.who for row in rows}
    assert {row.what.partition(",")[0] for row in report.rows} >= {"heavy-tailed", "all equal", "17 distinct values"}
    assert all("x Gaussian" in row.note for row in report.rows if row.what.startswith("17 distinct"))


def test_a_peer_that_fails_is_left_out_and_one_of_ours_fails_the_report(tmp_path: Path) -> None:
    def raises(error: Exception) -> Callable[[], object]:
        def call() -> object:
            raise error

        return call

    report = Report("some", 1, machine={"processor": "one"}, json=tmp_path / "so_far.json")
    ms = report.compare(
        "work",
        {
            "fgunlearn": lambda: 0,
            "fgunlearn, packed": raises(RuntimeError("a bug\nwith details")),
            "fgunlearn, large": raises(torch.OutOfMemoryError("no memory")),
            "torch": raises(NotImplementedError("not for this dtype")),
        },
        repeats=2,
        moved_bytes=1e6,
    )
    assert list(ms) == ["fgunlearn"]
    assert math.isnan(ms["torch"])
    assert report.failures == ["work: fgunlearn, packed: a bug"]
    assert report.left_out == ["work: fgunlearn, large: no memory", "work: torch: not for this dtype"]
    report.target("faster than torch", ms["torch"] / ms["fgunlearn"], 2.0)
    assert report.targets == []
    assert "not measured" in report.left_out[-1]
    assert json.loads((tmp_path / "so_far.json").read_text())["rows"]  # before the run has ended
    console = Console(width=200, record=True, file=sys.stdout)
    report.print(console)


def test_a_failed_report_fails_the_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = importlib.import_module("fgunlearn.benchmarks.bench_update")
    monkeypatch.setattr(benchmark, "run", lambda report: report.failures.append("work: fgunlearn: a bug"))
    status, out, _ = run("bench", "update", "--quick")
    assert status == 1
    assert "FAILED: work: fgunlearn: a bug" in out


class FakeCuda:
    """What the clock asks of torch.cuda, written down in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        fake = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                fake.calls.append("event")

            def synchronize(self) -> None:
                fake.calls.append("wait")

            def elapsed_time(self, end: Event) -> float:
                return 2.5

        class Graph:
            def replay(self) -> None:
                fake.calls.append("replay")

        class Context:
            def __init__(self, *_: object) -> None:
                pass

            def __enter__(self) -> None:
                fake.calls.append("enter")

            def __exit__(self, *_: object) -> None:
                fake.calls.append("exit")

        stream = types.SimpleNamespace(wait_stream=lambda other: fake.calls.append("wait_stream"))
        replaced: dict[str, Any] = {
            "Event": Event,
            "CUDAGraph": Graph,
            "graph": Context,
            "stream": Context,
            "Stream": lambda: stream,
            "current_stream": lambda: stream,
            "set_stream": lambda stream: fake.calls.append("set_stream"),
            "synchronize": lambda device: fake.calls.append("synchronize"),
            "empty_cache": lambda: fake.calls.append("empty_cache"),
            "get_device_properties": lambda device: types.SimpleNamespace(L2_cache_size=1 << 22),
            "mem_get_info": lambda device: (1000, 2000),
        }
        for name, value in replaced.items():
            monkeypatch.setattr(torch.cuda, name, value)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


def clock() -> clocks.CudaClock:
    return clocks.CudaClock(torch.device("cpu"), budget_ms=100.0, least=5, most=50)


def test_on_cuda_the_cache_is_made_cold_before_and_outside_what_is_timed(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = clock()
    assert timer._written.numel() == 2 * (1 << 22)
    assert timer._read.numel() * timer._read.element_size() == 4 * (1 << 22)
    timer._written.fill_(7)
    monkeypatch.setattr(torch, "sum", lambda tensor, dim, out: cuda.calls.append("read"))
    assert timer.milliseconds(lambda: cuda.calls.append("call")) == 2.5
    assert cuda.calls == ["read", "event", "call", "event", "wait"]
    assert not timer._written.any()


def test_on_cuda_the_number_of_repeats_follows_from_the_time_of_one(cuda: FakeCuda) -> None:
    timer = clock()
    assert [timer.repeats(9, one) for one in (0.0, 0.1, 10.0, 50.0, 101.0)] == [50, 50, 10, 5, 2]
    assert timer.fits(900)
    assert not timer.fits(1000)
    assert cuda.calls[-2:] == ["synchronize", "empty_cache"]


def test_a_graph_is_captured_once_and_then_replayed(cuda: FakeCuda) -> None:
    replay = clocks.replayed(lambda: cuda.calls.append("call"))
    assert cuda.calls == []
    replay()
    warm = ["wait_stream", "enter", "call", "exit", "wait_stream"]
    assert cuda.calls == [*warm, "enter", "call", "exit", "replay"]
    replay()
    assert cuda.calls[-1:] == ["replay"]
    assert cuda.calls.count("call") == 2


def test_a_capture_that_fails_gives_the_stream_back(cuda: FakeCuda) -> None:
    calls = iter([None, RuntimeError("operation not permitted when stream is capturing")])

    def call() -> None:
        error = next(calls)
        if error is not None:
            raise error

    with pytest.raises(RuntimeError, match="capturing"):
        clocks.replayed(call)()
    assert cuda.calls[-1] == "set_stream"


@given(st.integers(1, 10**10), st.floats(0.0, 1.0))
def test_sectors_are_at_most_the_tensor_and_at_most_one_per_coordinate(n: int, share: float) -> None:
    k = int(share * n)
    for itemsize in (2, 4, 8):
        moved = floors.sectors(n, k, itemsize)
        assert -1e-6 * n <= moved <= n * itemsize * (1 + 1e-12)
        assert moved <= floors.SECTOR * k * (1 + 1e-6) + 1e-6 * n
        assert moved >= k * itemsize * (1 - 1e-6) - 1e-6 * n


def test_floors_count_what_is_read_and_written() -> None:
    assert floors.top_k(10**8, 10**6) == 4e8 + 4e6
    assert floors.top_k(7 * 10**9, 10**6, 2) == 14e9 + 8e6
    assert floors.accumulate(10**8, 2) == 10e8
    assert floors.accumulate_top_k(10**8, 10**6) == 12e8 + 4e6
    assert floors.gather(10**8, 0) == 0.0
    assert (floors.shift(10**8), floors.shift_backward(10**8)) == (12e8, 16e8)


def test_cubs_headers_are_the_ones_given_or_the_packages(tmp_path: Path) -> None:
    assert peer.headers(tmp_path) is None
    (tmp_path / peer.HEADER).parent.mkdir(parents=True)
    (tmp_path / peer.HEADER).touch()
    assert peer.headers(tmp_path) == tmp_path
    found = peer.headers()
    assert found is None or (found / peer.HEADER).exists()


def test_the_peer_is_left_out_with_a_reason_where_it_cannot_be_had() -> None:
    report = timing.start("select", quick=True)
    assert peer.load(report) is None
    assert report.left_out == ["cub::DeviceTopK: a CUDA device is needed"]


@pytest.mark.skipif(shutil.which("nvcc") is None or peer.headers() is None, reason="needs nvcc and nvidia-cuda-cccl")
def test_the_peer_compiles_and_its_signature_is_the_one_called(tmp_path: Path) -> None:
    include = peer.headers()
    assert include is not None
    subprocess.run(peer.command(include, "90", tmp_path / "peer.so"), check=True)
    function = peer.CubTopK(tmp_path / "peer.so")._function
    assert len(function.argtypes) == 9
