"""Stream order and nothing else: side streams, threads, graphs, other devices, and memory that is not clean."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from cases import CASES, Arguments, Case, assert_same_bits, leaves, placed
from fgunlearn import ops

pytestmark = pytest.mark.cuda

_MILLISECONDS = 2_000_000  # clock cycles, about


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def fill_free_memory(byte: int) -> None:
    """Leaves the caching allocator with blocks of all sizes full of ``byte``."""
    held = [torch.full((2**bits,), byte, dtype=torch.uint8, device="cuda") for bits in range(9, 27) for _ in range(6)]
    torch.cuda.synchronize()
    del held


@pytest.mark.parametrize("byte", [0xFF, 0x00, 0x7F, 0x01])
def test_what_is_left_in_memory_does_not_matter(case: Case, byte: int) -> None:
    arguments = placed(case.make(3), "cuda")
    expected = [t.clone() for t in case.run(placed(arguments, "cuda"))]
    for _ in range(3):
        again = placed(arguments, "cuda")
        fill_free_memory(byte)
        assert_same_bits(case.run(again), expected)


def _floats(nested: object) -> list[Tensor]:
    return [t for t in leaves(nested) if t.is_floating_point()]


def _whole(t: Tensor) -> Tensor:
    """The storage of a tensor from ``placed``: every element, those between its strides included."""
    return t.as_strided((t.untyped_storage().nbytes() // t.element_size(),), (1,), 0)


def on_stream(case: Case, arguments: Arguments, stream: torch.cuda.Stream, delay: int) -> list[Tensor]:
    """The op's outputs where its input arrives on the stream ``delay`` cycles late, after zeros.

    Work that did not wait for the stream would see the zeros, or its outputs would be read before they are there.
    """
    late = placed(arguments, "cuda")
    for t in _floats(late):
        _whole(t).zero_()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(delay)
        for t, value in zip(_floats(late), _floats(arguments), strict=True):
            _whole(t).copy_(_whole(value))
        outputs = [t.clone() for t in case.run(late)]
    stream.synchronize()
    return outputs


def test_an_op_works_in_the_order_of_the_current_stream(case: Case) -> None:
    arguments = placed(case.make(4), "cuda")
    expected = [t.clone() for t in case.run(placed(arguments, "cuda"))]
    stream = torch.cuda.Stream()
    on_stream(case, arguments, stream, 0)  # what is done the first time only is done
    assert_same_bits(on_stream(case, arguments, stream, 100 * _MILLISECONDS), expected)


def test_an_op_does_not_wait_for_other_streams(case: Case) -> None:
    arguments = placed(case.make(4), "cuda")
    stream, other = torch.cuda.Stream(), torch.cuda.Stream()
    on_stream(case, arguments, stream, 0)
    again = placed(arguments, "cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(other):
        torch.cuda._sleep(500 * _MILLISECONDS)
    with torch.cuda.stream(stream):
        case.run(again)
    stream.synchronize()
    assert not other.query()
    torch.cuda.synchronize()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.waits])
def test_the_host_does_not_wait(name: str) -> None:
    case = CASES[name]
    arguments = placed(case.make(4), "cuda")
    stream = torch.cuda.Stream()
    on_stream(case, arguments, stream, 0)
    again = placed(arguments, "cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(500 * _MILLISECONDS)
        case.run(again)
        assert not stream.query()
    torch.cuda.synchronize()


def test_two_threads_on_two_streams_do_not_disturb_each_other(case: Case) -> None:
    arguments = [placed(case.make(seed), "cuda") for seed in (5, 6)]
    expected = [[t.clone() for t in case.run(placed(a, "cuda"))] for a in arguments]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()

    def work(which: int) -> list[list[Tensor]]:
        answers = []
        with torch.cuda.stream(streams[which]):
            for _ in range(10):
                answers.append([t.clone() for t in case.run(placed(arguments[which], "cuda"))])
        streams[which].synchronize()
        return answers

    with ThreadPoolExecutor(2) as pool:
        for which, answers in enumerate(pool.map(work, (0, 1))):
            for answer in answers:
                assert_same_bits(answer, expected[which])


def captured(run: Callable[[], list[Tensor]]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()
    return graph, outputs


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.waits])
def test_a_captured_graph_computes_with_the_values_of_its_replay(name: str) -> None:
    case = CASES[name]
    first, second = (placed(case.make(seed), "cuda") for seed in (7, 8))
    expected = [[t.clone() for t in case.run(placed(a, "cuda"))] for a in (second, first)]
    static = placed(first, "cuda")
    warm = torch.cuda.Stream()
    warm.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm):
        case.run(placed(first, "cuda"))
    torch.cuda.current_stream().wait_stream(warm)
    graph, outputs = captured(lambda: case.run(static))
    fill_free_memory(0xFF)
    for arguments, wanted in zip((second, first), expected, strict=True):
        for t, value in zip(leaves(static), leaves(arguments), strict=True):
            _whole(t).copy_(_whole(value))
        graph.replay()
        assert_same_bits(outputs, wanted)


def test_scoring_ranking_and_stepping_are_captured_in_one_graph() -> None:
    grads = [torch.randn(70_003, device="cuda"), torch.randn(40, 33, device="cuda")]
    scores = [torch.zeros_like(g) for g in grads]

    def work() -> list[Tensor]:
        ops.score_accumulate_(scores, grads, "abs_grad", 1.0)
        return list(ops.topk_select_packed(scores, 1_000))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph, outputs = captured(work)
    for s in scores:
        s.zero_()
    total = [torch.zeros_like(g) for g in grads]
    for _ in range(5):
        for g, t in zip(grads, total, strict=True):
            g.normal_()
            t.add_(g.abs())
        graph.replay()
    assert_same_bits(scores, total)
    assert_same_bits(outputs, list(ops.topk_select_packed(total, 1_000)))


def test_a_second_device_is_used_where_the_tensors_are(case: Case) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two CUDA devices, found {torch.cuda.device_count()}")
    arguments = case.make(9)
    expected = case.run(placed(arguments, "cuda:0"))
    with torch.cuda.device(0):
        got = case.run(placed(arguments, "cuda:1"))
        assert torch.cuda.current_device() == 0
    assert all(t.device == torch.device("cuda", 1) for t in got)
    assert_same_bits(got, expected)


def test_torch_stays_on_the_device_it_was_on() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two CUDA devices, found {torch.cuda.device_count()}")
    with torch.cuda.device(1):
        ops.rms([torch.ones(3, device="cuda:1")])
        assert torch.ones(3, device="cuda").add(1).device == torch.device("cuda", 1)
        ops.rms([torch.ones(3, device="cuda:0")])
        assert torch.ones(3, device="cuda").add(1).tolist() == [2.0] * 3
        assert torch.cuda.current_device() == 1


def test_an_op_that_waits_refuses_capture_and_leaves_no_error_behind() -> None:
    x = torch.randn(1_000, device="cuda")
    ops.topk_select([x], 10)  # warm
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="captur"), torch.cuda.graph(graph):
        ops.topk_select([x], 10)
    assert ops.rms([torch.full((5,), 2.0, device="cuda")]).item() == 2.0


def test_tensors_on_two_devices_are_refused() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two CUDA devices, found {torch.cuda.device_count()}")
    with pytest.raises(RuntimeError, match=r"keys\[1\] must be on cuda:0 like the others"):
        ops.topk_select([torch.ones(3, device="cuda:0"), torch.ones(3, device="cuda:1")], 1)
