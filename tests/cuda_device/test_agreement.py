"""CPU, CUDA and specification agree, whatever the values, the layout and the sizes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from cases import CASES, Case, assert_close, assert_same_bits, indices_into, leaves, placed
from fgunlearn import ops
from fgunlearn.ops.perturb import GAUSSIAN_STREAM, draw_ref, rms_ref
from fgunlearn.ops.select import (
    randomk_select_ref,
    topk_select_each_ref,
    topk_select_packed_ref,
    topk_select_ref,
)
from keys import KINDS, gaussian

pytestmark = pytest.mark.cuda

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def on_cuda(*tensors: Tensor) -> list[Tensor]:
    return placed(list(tensors), "cuda")  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", [0, 1])
def test_cuda_gives_what_the_cpu_gives_and_the_specification_asks(case: Case, seed: int) -> None:
    arguments = case.make(seed)
    got = case.run(placed(arguments, "cuda"))
    assert all(t.is_cuda for t in got)
    on_cpu = case.run(placed(arguments, "cpu"))
    if case.between_devices:
        assert_close(got, on_cpu, {t.dtype: case.between_devices for t in on_cpu})
    else:
        assert_same_bits(got, on_cpu)
    assert_close(got, case.expected(placed(arguments, "cpu")), case.tolerance)


def test_arguments_that_are_only_read_stay_as_they_were(case: Case) -> None:
    arguments = placed(case.make(0), "cuda")
    before = placed(arguments, "cpu")
    case.run(arguments)
    for position, (was, now) in enumerate(zip(before, arguments, strict=True)):
        if position not in case.writes:
            assert_same_bits(leaves(now), leaves(was))


def test_twenty_repeats_give_the_same_bits(case: Case) -> None:
    arguments = placed(case.make(2), "cuda")
    first = [t.clone() for t in case.run(placed(arguments, "cuda"))]
    for _ in range(20):
        assert_same_bits(case.run(placed(arguments, "cuda")), first)


def test_an_op_passes_opcheck_on_cuda(case: Case) -> None:
    op = getattr(torch.ops.fgunlearn, case.op)
    torch.library.opcheck(op, placed(case.make(0), "cuda"), test_utils=case.opchecks)


def check_topk(keys: list[Tensor], k: int) -> None:
    """``keys`` on the CPU. The CPU's kernels are held to the specification in tests/ops."""
    expected, threshold = ops.topk_select(keys, k)
    there = placed(keys, "cuda")
    for exhaustive in (False, True):  # by sampling, and by radix histograms
        indices, found = torch.ops.fgunlearn.topk_select(there, k, exhaustive)
        assert_same_bits([*indices, found], [*expected, threshold])
    packed, offsets, found = ops.topk_select_packed(there, k)
    ends = offsets.tolist()
    assert_same_bits([packed[a:b] for a, b in itertools.pairwise(ends)], [i.to(packed.dtype) for i in expected])
    assert_same_bits([found], [threshold])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [32_769, 300_001, 3_000_017])
def test_topk_is_exact_whatever_the_values(kind: str, n: int) -> None:
    values = KINDS[kind](n)
    keys = [values[: n // 3].reshape(-1, 1), values[n // 3 : n // 2], values[n // 2 :]]
    for k in (1, 17, n // 100, n // 16, n // 2, n - 1):
        check_topk(keys, k)


@pytest.mark.parametrize("kind", KINDS)
def test_topk_of_adversarial_values_is_its_specification(kind: str) -> None:
    keys = [KINDS[kind](40_003)]
    expected, threshold = topk_select_ref(keys, 1_001)
    indices, found = ops.topk_select(on_cuda(*keys), 1_001)
    assert_same_bits([*indices, found], [*expected, threshold])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_topk_of_other_dtypes_is_exact_whatever_the_values(kind: str, dtype: torch.dtype) -> None:
    keys = [KINDS[kind](200_003).to(dtype), KINDS[kind](100_000).to(dtype)]
    for k in (1, 3_000, 150_000):
        check_topk(keys, k)


def test_topk_of_a_large_mixed_list_compares_by_value() -> None:
    keys = [gaussian(600_000).double(), gaussian(600_001).half(), gaussian(600_002), gaussian(600_003).bfloat16()]
    for k in (1, 24_000, 2_000_000):
        check_topk(keys, k)


@pytest.mark.parametrize("kind", ["gaussian", "all equal", "17 values", "infinities"])
def test_topk_of_each_is_exact_whatever_the_values(kind: str) -> None:
    keys = [KINDS[kind](n) for n in (1, 4_096, 70_003, 300_001, 9)]
    for k in ([0] * 5, [1, 40, 700, 3_000, 0], [t.numel() for t in keys], [1, 4_095, 1, 300_001, 8]):
        got, found = ops.topk_select_each(on_cuda(*keys), k)
        expected, thresholds = topk_select_each_ref(keys, k)
        assert_same_bits([*got, found], [*expected, thresholds])


def test_nothing_and_everything_can_be_selected() -> None:
    keys = [gaussian(70_003), torch.zeros(0), gaussian(1).reshape(())]
    for k in (0, 70_004):
        check_topk(keys, k)
        numels = [t.numel() for t in keys]
        assert_same_bits(ops.randomk_select(numels, k, 5, device="cuda"), randomk_select_ref(numels, k, 5))
    empty = [torch.zeros(0), torch.zeros(0, 4).half()]
    assert [i.numel() for i in ops.topk_select(on_cuda(*empty), 0)[0]] == [0, 0]
    assert ops.topk_select_packed(on_cuda(*empty), 0)[1].tolist() == [0, 0, 0]
    assert ops.rms(on_cuda(*empty)).tolist() == [0.0, 0.0]


def test_randomk_of_millions_is_its_specification() -> None:
    numels = [1_000_003, 65_537, 64, 0, 1]
    for k in (1, 1_000, 10_661, 500_000, 1_065_604):
        assert_same_bits(ops.randomk_select(numels, k, 42, device="cuda"), randomk_select_ref(numels, k, 42))
    base = ops.randomk_select(numels, 5_000, 7, device="cuda")
    for k in (0, 1, 20_000, 1_060_605):
        wanted = randomk_select_ref(numels, k, 9, placed(base, "cpu"))
        assert_same_bits(ops.randomk_select(numels, k, 9, base), wanted)


def test_hundreds_of_tensors_are_one_list() -> None:
    keys = [gaussian(n) for n in range(1_200)]
    check_topk(keys, 50_000)
    there = on_cuda(*keys)
    index = indices_into(keys, 3)
    values = ops.sparse_gather(keys, index)
    assert_same_bits(ops.sparse_gather(there, placed(index, "cuda")), values)
    assert_close([ops.rms(there)], [rms_ref(keys)], {torch.float64: 1e-12})
    scores = [torch.zeros(t.numel()) for t in keys]
    on_device = placed(scores, "cuda")
    for s, g in ((scores, keys), (on_device, there)):
        ops.score_accumulate_(s, g, "fisher", 0.5)
    assert_same_bits(on_device, scores)
    count = len(keys)
    how = (["normal"] * count, [1.0] * count, [0.0] * count, [0.1] * count, 3, GAUSSIAN_STREAM, [0] * count)
    ops.sparse_perturb_(keys, index, *how)
    ops.sparse_perturb_(there, placed(index, "cuda"), *how)
    assert_same_bits(there, keys)
    ops.sparse_scatter_(keys, index, values)
    ops.sparse_scatter_(there, placed(index, "cuda"), placed(values, "cuda"))
    assert_same_bits(there, keys)


@pytest.mark.parametrize("offset", [0, 5, 2**32 - 3, 10**12])
@pytest.mark.parametrize("draw", ["uniform", "normal"])
def test_noise_is_its_specification_and_has_the_cpus_bits(offset: int, draw: str) -> None:
    def noise(device: str) -> Tensor:
        x = torch.zeros(100_000, dtype=torch.float64, device=device)
        index = torch.arange(100_000, device=device)
        ops.sparse_perturb_([x], [index], [draw], [1.0], [0.0], [1.0], 7, GAUSSIAN_STREAM, [offset])
        return x.cpu()

    got, wanted = noise("cuda"), draw_ref(draw, 7, GAUSSIAN_STREAM, torch.arange(100_000) + offset)
    if draw == "uniform":
        assert got.equal(wanted)
    else:
        a, b = (x.float().view(torch.int32).long() for x in (got, wanted))
        assert int((a - b).abs().max()) <= 4
    assert got.equal(noise("cpu"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("draw", ["none", "normal", "uniform"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_every_draw_in_every_dtype_has_the_cpus_bits(dtype: torch.dtype, draw: str, keep: float) -> None:
    theta = [gaussian(120).reshape(2, 3, 5, 4).to(dtype), gaussian(1_321)[1:].to(dtype), torch.tensor(2.0).to(dtype)]
    theta[0] = theta[0].to(memory_format=torch.channels_last)
    index = indices_into(theta, 4, share=0.5)
    how = ([draw] * 3, [keep] * 3, [0.25] * 3, [0.5] * 3, 3, GAUSSIAN_STREAM, [0, 120, 1_440])
    there = placed(theta, "cuda")
    ops.sparse_perturb_(there, placed(index, "cuda"), *how)
    ops.sparse_perturb_(theta, index, *how)
    assert_same_bits(there, theta)


def test_redrawing_does_not_look_at_the_old_value() -> None:
    x = torch.tensor([math.nan, math.inf, 1.0], device="cuda")
    index = torch.arange(3, device="cuda")
    ops.sparse_perturb_([x], [index], ["none"], [0.0], [0.5], [0.0], 0, GAUSSIAN_STREAM, [0])
    assert x.tolist() == [0.5, 0.5, 0.5]


def test_half_subnormals_are_exact() -> None:
    grad = torch.arange(0, 65_536, dtype=torch.int32).to(torch.int16).view(torch.float16)
    grad = torch.where(grad.isfinite(), grad, torch.zeros_like(grad))
    score = torch.zeros(65_536, device="cuda")
    ops.score_accumulate_([score], [grad.cuda()], "grad", 1.0)
    assert score.cpu().equal(grad.float())


def test_float_subnormals_are_not_flushed_to_zero() -> None:
    grad = gaussian(10_000) * 1e-40
    score = torch.zeros(10_000, device="cuda")
    ops.score_accumulate_([score], [grad.cuda()], "abs_grad", 1.0)
    assert score.cpu().equal(grad.abs())


def test_nan_payloads_are_moved_bit_for_bit() -> None:
    bits = torch.tensor([0x7FC01234, -2147483648, 1], dtype=torch.int32, device="cuda")
    x, index = torch.zeros(5, device="cuda"), torch.tensor([0, 2, 4], device="cuda")
    ops.sparse_scatter_([x], [index], [bits.view(torch.float32)])
    assert ops.sparse_gather([x], [index])[0].view(torch.int32).equal(bits)
    assert x[[1, 3]].tolist() == [0.0, 0.0]


def test_nothing_off_the_selection_moves_by_a_bit() -> None:
    before = gaussian(300_000)
    index = indices_into([before], 1)[0]
    off = torch.ones(before.numel(), dtype=torch.bool).index_fill(0, index.long(), False)
    x, at = before.cuda(), index.cuda()
    ops.sparse_perturb_([x], [at], ["normal"], [1.0], [0.0], [0.1], 0, GAUSSIAN_STREAM, [0])
    ops.sparse_ascent_([x], [torch.ones_like(x)], [at], 0.5)
    ops.sparse_sgd_([x], [torch.ones_like(x)], [at], [], [1], 0.1, 0.0, 0.0, 0.9, False, False)
    ops.sparse_scatter_([x], [at], [torch.zeros(at.numel(), device="cuda")])
    assert_same_bits([x.cpu()[off]], [before[off]])
    assert not x.cpu()[~off].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_sparse_add_are_the_cpus(dtype: torch.dtype) -> None:
    theta, index = gaussian(12_000).reshape(100, 120).to(dtype), indices_into([gaussian(12_000)], 2)[0]
    weight, delta = gaussian(12_001)[1:].reshape(120, 100).t().to(dtype), gaussian(index.numel())
    answers = []
    for device in ("cpu", "cuda"):
        t, i, d, w = placed([theta, index, delta, weight], device)
        t.requires_grad_()
        d.requires_grad_()
        out = ops.sparse_add(t, i, d)
        (out * w).sum().backward()
        answers.append([out, t.grad, d.grad])
    assert_same_bits(answers[1], answers[0])


def test_second_derivatives_exist_on_cuda() -> None:
    theta = torch.randn(3, 4, dtype=torch.float64, device="cuda", requires_grad=True)
    delta = torch.randn(4, dtype=torch.float64, device="cuda", requires_grad=True)
    index = torch.tensor([0, 3, 4, 11], device="cuda")
    assert torch.autograd.gradcheck(lambda t, d: ops.sparse_add(t, index, d) ** 2, (theta, delta))
    assert torch.autograd.gradgradcheck(lambda t, d: ops.sparse_add(t, index, d) ** 2, (theta, delta))
    assert torch.autograd.gradgradcheck(lambda t: ops.sparse_take(t, index) ** 3, (theta,))


def test_vmap_is_a_loop_over_the_batch_on_cuda() -> None:
    theta, deltas = torch.randn(3, 4, device="cuda"), torch.randn(5, 4, device="cuda")
    index = torch.tensor([0, 3, 4, 11], device="cuda")
    got = torch.vmap(lambda d: ops.sparse_add(theta, index, d))(deltas)
    assert got.equal(torch.stack([ops.sparse_add(theta, index, d) for d in deltas]))


def test_topk_packed_is_its_specification_where_any_tensor_is_empty() -> None:
    keys = [torch.zeros(0), gaussian(5_000), torch.zeros(0), gaussian(3)]
    assert_same_bits(ops.topk_select_packed(on_cuda(*keys), 200), topk_select_packed_ref(keys, 200))
