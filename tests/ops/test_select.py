from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fgunlearn import ops
from fgunlearn.ops.philox import philox4x32_ref
from fgunlearn.ops.select import (
    join_global,
    randomk_select_ref,
    split_global,
    topk_select_each_ref,
    topk_select_packed_ref,
    topk_select_ref,
)
from keys import KINDS, gaussian

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
BELOW_F64 = (torch.float32, torch.float16, torch.bfloat16)

# Values on which selections stumble: ties, zeros of both signs, subnormals of each dtype, infinities.
_VALUES = st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 0.5, 6e-8, -6e-8, 1e-40, 3e-320, 65504.0, math.inf, -math.inf]
) | st.floats(-4, 4, width=16)


@st.composite
def tensors(draw: st.DrawFn, mixed: bool = True) -> Tensor:
    """A tensor of up to 3 dimensions, perhaps empty or strided."""
    shape = draw(st.lists(st.integers(0, 7), max_size=3))
    dtype = draw(st.sampled_from(DTYPES if mixed else BELOW_F64))
    numel = math.prod(shape)
    values = draw(st.lists(_VALUES, min_size=numel, max_size=numel))
    tensor = torch.tensor(values, dtype=torch.float64).to(dtype).reshape(shape)
    if draw(st.booleans()) and tensor.dim() > 1:
        tensor = tensor.transpose(0, -1).contiguous().transpose(0, -1)
    return tensor


def assert_equal(got: list[Tensor], expected: list[Tensor]) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        assert a.equal(b)


def check_topk(keys: list[Tensor], k: int) -> None:
    expected, threshold = topk_select_ref(keys, k)
    for exhaustive in (False, True):  # by sampling, and by radix histograms
        indices, found = torch.ops.fgunlearn.topk_select(keys, k, exhaustive)
        assert_equal(indices, expected)
        assert found.equal(threshold)


@given(keys=st.lists(tensors(), max_size=5), data=st.data())
@settings(max_examples=300, deadline=None)
def test_topk_is_the_stable_sort_by_magnitude_then_index(keys: list[Tensor], data: st.DataObject) -> None:
    check_topk(keys, data.draw(st.integers(0, sum(t.numel() for t in keys))))


@given(keys=st.lists(tensors(mixed=False), max_size=5), data=st.data())
@settings(max_examples=150, deadline=None)
def test_the_same_without_float64_in_the_list(keys: list[Tensor], data: st.DataObject) -> None:
    check_topk(keys, data.draw(st.integers(0, sum(t.numel() for t in keys))))


@given(keys=st.lists(tensors(), max_size=4), data=st.data())
@settings(max_examples=100, deadline=None)
def test_topk_of_each_tensor_is_topk_of_it_alone(keys: list[Tensor], data: st.DataObject) -> None:
    k = [data.draw(st.integers(0, t.numel())) for t in keys]
    indices, thresholds = ops.topk_select_each(keys, k)
    expected, wanted = topk_select_each_ref(keys, k)
    assert_equal(indices, expected)
    assert thresholds.equal(wanted)


@given(keys=st.lists(tensors(), max_size=4), data=st.data())
@settings(max_examples=100, deadline=None)
def test_topk_packed_is_topk_with_the_indices_one_after_another(keys: list[Tensor], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, sum(t.numel() for t in keys)))
    assert_equal(list(ops.topk_select_packed(keys, k)), list(topk_select_packed_ref(keys, k)))


def test_topk_packed_refuses_nan_and_an_impossible_k() -> None:
    with pytest.raises(RuntimeError, match=r"topk_select_packed: keys\[1\] holds 1 NaN"):
        ops.topk_select_packed([torch.ones(3), torch.tensor([math.nan])], 1)
    with pytest.raises(RuntimeError, match=r"k must be in \[0, 3\], got 4"):
        ops.topk_select_packed([torch.ones(3)], 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [32_769, 300_001])
def test_topk_of_large_lists_is_exact_whatever_the_values(kind: str, n: int) -> None:
    values = KINDS[kind](n)
    keys = [values[: n // 3].reshape(-1, 1), values[n // 3 : n // 2], values[n // 2 :]]
    for k in (1, 17, n // 100, n // 16, n // 2, n - 1):
        check_topk(keys, k)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_topk_of_large_tensors_of_other_dtypes_is_exact(dtype: torch.dtype) -> None:
    keys = [gaussian(100_003).to(dtype), gaussian(50_000).to(dtype)]
    for k in (1, 1_500, 75_000):
        check_topk(keys, k)


def test_topk_of_a_large_mixed_list_compares_by_value() -> None:
    keys = [gaussian(60_000).double(), gaussian(60_000).half(), gaussian(60_000), gaussian(60_000).bfloat16()]
    check_topk(keys, 2_400)


def test_topk_of_millions_is_exact() -> None:
    check_topk([gaussian(3_000_000)], 30_000)


def test_hundreds_of_small_tensors_are_one_list() -> None:
    check_topk([gaussian(n) for n in range(400)], 5_000)


def test_channels_last_tensors_are_indexed_in_c_order() -> None:
    x = gaussian(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    assert_equal(ops.topk_select([x.to(memory_format=torch.channels_last)], 20)[0], ops.topk_select([x], 20)[0])


@pytest.mark.parametrize("n", [10, 100_000])
@pytest.mark.parametrize("k", [0, 1, 5, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_nan_is_refused_with_tensor_and_count_whatever_k(n: int, k: int | None, dtype: torch.dtype) -> None:
    keys = [torch.ones(n, dtype=dtype), torch.ones(n, dtype=dtype)]
    keys[1][[2, 7]] = math.nan
    with pytest.raises(RuntimeError, match=r"topk_select: keys\[1\] holds 2 NaN"):
        ops.topk_select(keys, 2 * n if k is None else k)


@pytest.mark.parametrize("k", [-1, 5])
def test_an_impossible_k_is_refused(k: int) -> None:
    with pytest.raises(RuntimeError, match=rf"k must be in \[0, 4\], got {k}"):
        ops.topk_select([torch.ones(4)], k)
    with pytest.raises(RuntimeError, match=rf"k must be in \[0, 4\], got {k}"):
        ops.randomk_select([4], k, 0)


def test_philox_gives_the_published_words() -> None:
    words = philox4x32_ref(0, 0, torch.zeros(1, dtype=torch.int64)).flatten().tolist()
    assert words == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]  # Random123's kat_vectors


@given(
    numels=st.lists(st.integers(0, 300), min_size=1, max_size=5),
    seed=st.integers(-(2**63), 2**63 - 1),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_randomk_is_its_specification(numels: list[int], seed: int, data: st.DataObject) -> None:
    n = sum(numels)
    first = data.draw(st.integers(0, n))
    base = ops.randomk_select(numels, first, seed)
    assert_equal(base, randomk_select_ref(numels, first, seed))
    more = data.draw(st.integers(0, n - first))
    assert_equal(
        ops.randomk_select(numels, more, seed + 1 if seed < 0 else seed - 1, base),
        randomk_select_ref(numels, more, seed + 1 if seed < 0 else seed - 1, base),
    )


def test_randomk_of_millions_is_its_specification() -> None:
    numels = [1_000_003, 65_537, 64, 0, 1]
    for k in (1, 1_000, 10_661, 500_000, 1_065_604):
        assert_equal(ops.randomk_select(numels, k, 42), randomk_select_ref(numels, k, 42))


def test_randomk_does_not_depend_on_where_tensors_end() -> None:
    whole = join_global(ops.randomk_select([200_000], 2_000, 9), [200_000])
    cut = join_global(ops.randomk_select([1, 99_999, 63, 65, 99_872], 2_000, 9), [1, 99_999, 63, 65, 99_872])
    assert whole.equal(cut)


def test_randomk_draws_on_the_device_it_is_told() -> None:
    numels = [300, 0, 40]
    plain = ops.randomk_select(numels, 30, 2)
    assert_equal(ops.randomk_select(numels, 30, 2, device="cpu"), plain)
    assert_equal(ops.randomk_select(numels, 30, 2, [torch.zeros(0, dtype=torch.int32)] * 3), plain)
    assert_equal(ops.randomk_select(numels, 5, 3, plain, device="cpu"), ops.randomk_select(numels, 5, 3, plain))
    with pytest.raises(ValueError, match="base is on cpu and device is meta"):
        ops.randomk_select(numels, 5, 3, plain, device="meta")


def test_randomk_is_uniform() -> None:
    # Counts of 400 draws of 100 from 1000: expectation 40, variance 36. Chi-square over 1000 cells (999 free, since
    # each draw has 100) has mean 1000 * 36 / 40 = 900 and standard deviation about 40.
    counts = torch.zeros(1000)
    for seed in range(400):
        counts[ops.randomk_select([1000], 100, seed)[0].long()] += 1
    statistic = float(((counts - 40) ** 2 / 40).sum())
    assert 740 < statistic < 1060


def test_split_and_join_are_inverse() -> None:
    numels = [5, 0, 7, 1]
    index = torch.tensor([0, 4, 5, 11, 12])
    assert join_global(split_global(index, numels), numels).equal(index)


def test_selections_are_the_same_bits_on_any_number_of_threads(threads: Callable[[int], None]) -> None:
    keys = [gaussian(400_000), gaussian(70_001).half()]
    answers = []
    for count in (1, 2, 8):
        threads(count)
        answers.append(
            [
                *ops.topk_select(keys, 4_321)[0],
                *ops.randomk_select([470_001], 4_321, 5),
                *ops.topk_select_each(keys, [9, 8])[0],
            ]
        )
    assert_equal(answers[1], answers[0])
    assert_equal(answers[2], answers[0])


_DIGEST = """
import hashlib, sys, torch
from fgunlearn import _host, ops
g = torch.Generator().manual_seed(0)
digest = hashlib.sha256()
def add(ts):
    for t in ts:
        digest.update(t.contiguous().view(torch.uint8).numpy().tobytes())
x = [torch.randn(n, generator=g) for n in (100_003, 77, 65_600)]
for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
    y = [t.to(dtype) for t in x]
    index = ops.topk_select(y, 3_000)[0]
    add(index)
    s = [torch.zeros(t.shape, dtype=torch.float64 if dtype == torch.float64 else torch.float32) for t in y]
    for kind in ("grad", "abs_grad", "fisher"):
        ops.score_accumulate_(s, y, kind, 0.3)
    add(s)
    ops.sparse_perturb_(y, index, ("normal", "uniform", "normal"), [1.] * 3, [.1] * 3, [0.2] * 3, 5, 2, [0, 9, 10**10])
    add(y)
    add([ops.rms(y), ops.count_nonfinite(y)])
add(ops.randomk_select([100_003, 77, 65_600], 3_000, 1))
print(_host.simd(), digest.hexdigest())
"""


def test_every_instruction_set_gives_the_same_bits() -> None:
    answers = {}
    for name in ("scalar", "avx2", "avx512"):
        done = subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env=os.environ | {"FGUNLEARN_SIMD": name},
            capture_output=True,
            text=True,
            check=True,
        )
        used, digest = done.stdout.split()
        answers[used] = digest
    assert "scalar" in answers
    assert len(set(answers.values())) == 1, answers


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("topk_select", ([torch.randn(100), torch.randn(3, 4).half()], 5)),
        ("topk_select_each", ([torch.randn(100), torch.randn(3, 4)], [5, 0])),
        ("randomk_select", ([10, 20], 5, 0, [])),
        ("randomk_select", ([10, 20], 5, 0, [torch.tensor([1]), torch.tensor([0, 3])])),
    ],
)
def test_the_ops_pass_opcheck(op: str, arguments: tuple[object, ...]) -> None:
    torch.library.opcheck(getattr(torch.ops.fgunlearn, op), arguments)
