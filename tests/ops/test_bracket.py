from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cases import assert_same_bits
from fgunlearn import ops
from fgunlearn.ops.bracket import INFINITY_KEY, bracket_histogram_ref, bracket_split_ref, keys_ref
from keys import KINDS, gaussian

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

_VALUES = st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 0.5, 6e-8, -6e-8, 1e-40, 3e-320, 65504.0, math.inf, -math.inf]
) | st.floats(-4, 4, width=16)


@st.composite
def lists(draw: st.DrawFn, nan: bool = True) -> tuple[list[Tensor], bool]:
    """Up to five tensors, some empty, strided or 0-d, and whether their keys are wide."""
    wide = draw(st.booleans())
    values = _VALUES | st.just(math.nan) if nan else _VALUES
    made = []
    for _ in range(draw(st.integers(0, 5))):
        shape = draw(st.lists(st.integers(0, 9), max_size=3))
        dtype = draw(st.sampled_from(DTYPES if wide else DTYPES[:3]))
        numel = math.prod(shape)
        held = draw(st.lists(values, min_size=numel, max_size=numel))
        tensor = torch.tensor(held, dtype=torch.float64).to(dtype).reshape(shape)
        if draw(st.booleans()) and tensor.dim() > 1:
            tensor = tensor.transpose(0, -1).contiguous().transpose(0, -1)
        made.append(tensor)
    return made, wide


def bounds(keys: list[Tensor], wide: bool) -> st.SearchStrategy[int]:
    """Keys of the list and their neighbours, both ends of the range, and anything between and beyond."""
    held = [key for t in keys for key in keys_ref(t, wide).tolist()]
    near = [max(0, key + step) for key in held for step in (-1, 0, 1)]
    ends = [0, INFINITY_KEY[wide], INFINITY_KEY[wide] + 1, 2**63 - 1]
    return st.sampled_from(near + ends) | st.integers(0, 2**63 - 1 if wide else 2**31)


def check_histogram(keys: list[Tensor], low: int, shift: int, bins: int, wide: bool) -> None:
    got = ops.bracket_histogram(keys, low, shift, bins, wide)
    assert_same_bits([got], [bracket_histogram_ref(keys, low, shift, bins, wide)])


def check_split(keys: list[Tensor], low: int, high: int, wide: bool) -> None:
    for got, expected in zip(
        ops.bracket_split(keys, low, high, wide), bracket_split_ref(keys, low, high, wide), strict=True
    ):
        assert_same_bits(got, expected)


@given(case=lists(), shift=st.integers(0, 62), bins=st.integers(1, 300) | st.integers(1, 65_536), data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_histogram_is_its_specification(
    case: tuple[list[Tensor], bool], shift: int, bins: int, data: st.DataObject
) -> None:
    keys, wide = case
    check_histogram(keys, data.draw(bounds(keys, wide)), shift, bins, wide)


@given(case=lists(), data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_split_is_its_specification(case: tuple[list[Tensor], bool], data: st.DataObject) -> None:
    keys, wide = case
    # Which NaN is above which is no matter of the specification.
    low, high = sorted(min(data.draw(bounds(keys, wide)), INFINITY_KEY[wide] + 1) for _ in range(2))
    check_split(keys, low, high, wide)


def large(dtype: torch.dtype) -> list[Tensor]:
    return [gaussian(100_003).to(dtype), gaussian(70_001).to(dtype)[1:], gaussian(64).to(dtype)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("bins", [1, 2_048, 2_049, 65_536])
def test_large_tensors_are_counted_exactly(dtype: torch.dtype, wide: bool, share: float, bins: int) -> None:
    if dtype == torch.float64 and not wide:
        return
    keys = large(dtype)
    keys[1][[3, 6_000]] = math.nan
    held = torch.cat([keys_ref(t, wide) for t in keys]).sort().values
    low = int(held[int(share * held.numel())])
    for shift in (0, 20, 52 if wide else 23):
        check_histogram(keys, low, shift, bins, wide)
    check_split(keys, low, int(held[int(0.995 * held.numel())]), wide)


@pytest.mark.parametrize("kind", KINDS)
def test_any_values_are_counted_and_split_exactly(kind: str) -> None:
    keys = [KINDS[kind](100_003), KINDS[kind](1_000).double(), KINDS[kind](70_000).half()]
    middle = int(keys_ref(keys[0], True).sort().values[90_000])
    check_histogram(keys, 0, 52, 2_048, True)
    check_histogram(keys, middle, 41, 2_048, True)
    check_split(keys, middle, middle + 1, True)
    check_split(keys, middle, middle + 2**45, True)
    check_split(keys[::2], middle >> 29, (middle >> 29) + 1, False)


def test_histograms_of_parts_add_up_and_hold_every_key_once() -> None:
    keys = large(torch.float32)
    parts = [ops.bracket_histogram([t], 0, 20, 2_048, False) for t in keys]
    whole = ops.bracket_histogram(keys, 0, 20, 2_048, False)
    assert torch.stack(parts).sum(0).equal(whole)
    assert int(whole.sum()) == sum(t.numel() for t in keys)


def test_a_few_histograms_and_a_split_find_the_k_largest() -> None:
    keys, k = large(torch.float32), 1_234
    low, above = 0, 0
    for shift, bins in ((20, 2_048), (9, 2_048), (0, 512)):  # all keys, and then those of the bin that holds the k-th
        counts = ops.bracket_histogram(keys, low, shift, bins, False)[:bins].tolist()
        chosen = bins
        while above < k:
            chosen -= 1
            above += counts[chosen]
        above -= counts[chosen]
        low += chosen << shift
    sure, tied = ops.bracket_split(keys, low, low + 1, False)
    assert sum(t.numel() for t in sure) == above < k
    assert above + sum(t.numel() for t in tied) >= k
    (selected, threshold) = ops.topk_select(keys, k)
    assert torch.tensor(low, dtype=torch.int32).view(torch.float32).double().equal(threshold[0])
    for t, index in enumerate(selected):
        assert set(sure[t].tolist()) <= set(index.tolist()) <= set(sure[t].tolist()) | set(tied[t].tolist())


def test_nan_have_an_element_of_their_own_wherever_low_is() -> None:
    for dtype in DTYPES:
        wide = dtype == torch.float64
        x = torch.tensor([math.nan, math.inf, -math.inf, 1.0, -math.nan], dtype=dtype)
        infinity = INFINITY_KEY[wide]
        assert ops.bracket_histogram([x], infinity, 0, 1, wide).tolist() == [2, 0, 2]
        for low in (infinity + 1, 2**63 - 1):
            assert ops.bracket_histogram([x], low, 0, 1, wide).tolist() == [0, 0, 2]
        above, between = ops.bracket_split([x], infinity, infinity + 1, wide)
        assert (above[0].tolist(), between[0].tolist()) == ([0, 4], [1, 2])


def test_nothing_is_a_list_too() -> None:
    assert ops.bracket_histogram([], 0, 0, 3, False).tolist() == [0] * 5
    assert ops.bracket_split([], 0, 1, True) == ([], [])
    empty = [torch.zeros(0), torch.zeros(3, 0).half()]
    check_histogram(empty, 0, 0, 3, False)
    check_split(empty, 0, 1, False)


def test_channels_last_tensors_are_indexed_in_c_order() -> None:
    x = gaussian(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    check_split([x.to(memory_format=torch.channels_last), x.transpose(1, 2)[:, ::2]], 0x3F800000, 0x40000000, False)


def test_the_answers_are_the_same_on_any_number_of_threads(threads: Callable[[int], None]) -> None:
    keys = [gaussian(400_000), gaussian(70_001).half()]
    answers = []
    for count in (1, 2, 8):
        threads(count)
        above, between = ops.bracket_split(keys, 0x3F800000, 0x3F900000, False)
        answers.append([ops.bracket_histogram(keys, 0x3F000000, 12, 1_000, False), *above, *between])
    assert_same_bits(answers[1], answers[0])
    assert_same_bits(answers[2], answers[0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([torch.ones(3)], -1, 0, 1, False), "bracket_histogram: low must be >= 0, got -1"),
        (([torch.ones(3)], 0, -1, 1, False), r"shift must be in \[0, 62\], got -1"),
        (([torch.ones(3)], 0, 63, 1, False), r"shift must be in \[0, 62\], got 63"),
        (([torch.ones(3)], 0, 0, 0, False), r"bins must be in \[1, 65536\], got 0"),
        (([torch.ones(3)], 0, 0, 65_537, False), r"bins must be in \[1, 65536\], got 65537"),
        (([torch.ones(3), torch.ones(3).double()], 0, 0, 1, False), r"keys\[1\] is float64.*wide=True"),
        (([torch.ones(3).long()], 0, 0, 1, False), r"keys\[0\] must be float32, float64, float16 or bfloat16"),
    ],
)
def test_a_histogram_refuses_what_does_not_fit(arguments: tuple[list[Tensor], int, int, int, bool], words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        ops.bracket_histogram(*arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([torch.ones(3)], -1, 0, False), "bracket_split: low must be >= 0, got -1"),
        (([torch.ones(3)], 2, 1, False), "low must not be above high, got 2 and 1"),
        (([torch.ones(3).double()], 0, 1, False), r"keys\[0\] is float64.*wide=True"),
        (([torch.ones(3), torch.ones(3).int()], 0, 1, True), r"keys\[1\] must be float32, float64"),
    ],
)
def test_a_split_refuses_what_does_not_fit(arguments: tuple[list[Tensor], int, int, bool], words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        ops.bracket_split(*arguments)


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("bracket_histogram", ([torch.randn(100), torch.randn(3, 4).half()], 5, 20, 30, False)),
        ("bracket_histogram", ([torch.randn(100).double(), torch.randn(3, 4).half()], 5, 40, 30, True)),
        ("bracket_split", ([torch.randn(100), torch.randn(3, 4).bfloat16()], 0x3F000000, 0x3F800000, False)),
    ],
)
def test_the_ops_pass_opcheck(op: str, arguments: tuple[object, ...]) -> None:
    torch.library.opcheck(getattr(torch.ops.fgunlearn, op), arguments)
