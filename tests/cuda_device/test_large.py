"""A tensor of 2^32 + 17 elements: nothing may count or index in 32 bits."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.ops.perturb import GAUSSIAN_STREAM, draw_ref

pytestmark = pytest.mark.cuda

N = 2**32 + 17
PLACES = [0, 1, 2**31 - 1, 2**31, 2**31 + 5, 2**32 - 1, 2**32, 2**32 + 3, N - 1]


def need(gibibytes: int) -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < gibibytes * 2**30:
        pytest.skip(f"needs {gibibytes} GiB of free device memory, found {free / 2**30:.1f}")


@pytest.fixture(autouse=True)
def _memory_goes_back() -> Iterator[None]:
    gc.collect()
    torch.cuda.empty_cache()
    yield
    gc.collect()
    torch.cuda.empty_cache()


def places() -> Tensor:
    return torch.tensor(PLACES, dtype=torch.int64, device="cuda")


def chunks(x: Tensor) -> Iterator[Tensor]:
    yield from torch.split(x, 2**28)


def noise() -> Tensor:
    x = torch.empty(N, dtype=torch.bfloat16, device="cuda")
    generator = torch.Generator("cuda").manual_seed(1)
    for part in chunks(x):
        part.normal_(generator=generator)
    return x


def test_topk_finds_planted_values_on_both_sides_of_2_to_the_32() -> None:
    need(24)
    x = noise()
    x[places()] = torch.arange(1_000, 1_000 + 8 * len(PLACES), 8, device="cuda").bfloat16()
    (index,), threshold = ops.topk_select([x], len(PLACES))
    assert index.dtype == torch.int64
    assert index.tolist() == PLACES
    assert threshold.tolist() == [1_000.0]
    packed, offsets, threshold = ops.topk_select_packed([x], len(PLACES))
    assert packed.dtype == torch.int64
    assert packed.tolist() == PLACES
    assert offsets.tolist() == [0, len(PLACES)]
    assert threshold.tolist() == [1_000.0]


def test_topk_of_a_million_takes_all_above_its_threshold_and_the_first_of_its_ties() -> None:
    need(24)
    x, k = noise(), 1_000_000
    (index,), threshold = ops.topk_select([x], k)
    border = float(threshold)
    assert index.numel() == k
    assert bool((index[1:] > index[:-1]).all())
    chosen = x[index].abs().float()
    above = sum(int((part.abs() > border).sum()) for part in chunks(x))
    assert int((chosen > border).sum()) == above
    assert int((chosen == border).sum()) == k - above
    last_tie = int(index[chosen == border].max())
    ties_before = sum(
        int((x[start : min(start + 2**28, last_tie + 1)].abs() == border).sum())
        for start in range(0, last_tie + 1, 2**28)
    )
    assert ties_before == k - above


def test_ties_of_equal_values_go_to_the_smallest_index_across_2_to_the_32() -> None:
    need(24)
    x = torch.zeros(N, dtype=torch.bfloat16, device="cuda")
    k = N - 5
    (index,), threshold = ops.topk_select([x[:N]], 1_000)
    assert index.tolist() == list(range(1_000))
    assert threshold.tolist() == [0.0]
    x[: 2**32] = 1.0
    x[2**32 :] = 2.0
    (index,), threshold = ops.topk_select([x], 20)
    assert index.tolist() == [0, 1, 2, *range(2**32, N)]
    assert threshold.tolist() == [1.0]
    assert k > 2**32


def test_gather_scatter_perturb_and_counts_reach_beyond_2_to_the_32() -> None:
    need(24)
    x, at = torch.zeros(N, dtype=torch.bfloat16, device="cuda"), places()
    values = torch.arange(1, len(PLACES) + 1, device="cuda").bfloat16()
    ops.sparse_scatter_([x], [at], [values])
    assert sum(int(part.count_nonzero()) for part in chunks(x)) == len(PLACES)
    assert x[at].equal(values)
    assert ops.sparse_gather([x], [at])[0].equal(values)
    square = float(values.double().square().sum())
    assert float(ops.rms([x])) == pytest.approx((square / N) ** 0.5, rel=1e-12)

    ops.sparse_perturb_([x], [at], ["normal"], [0.0], [0.0], [1.0], 5, GAUSSIAN_STREAM, [10**12])
    wanted = draw_ref("normal", 5, GAUSSIAN_STREAM, torch.tensor(PLACES) + 10**12)
    torch.testing.assert_close(x[at].cpu().double(), wanted, rtol=2.0**-8, atol=1e-3)
    assert sum(int(part.count_nonzero()) for part in chunks(x)) <= len(PLACES)

    x[at] = float("nan")
    assert ops.count_nonfinite([x]).tolist() == [len(PLACES)]
    with pytest.raises(RuntimeError, match=rf"keys\[0\] holds {len(PLACES)} NaN"):
        ops.topk_select([x], 3)


def test_an_update_reaches_beyond_2_to_the_32() -> None:
    need(24)
    x, at = torch.zeros(N, dtype=torch.bfloat16, device="cuda"), places()
    grad = torch.ones(1, dtype=torch.bfloat16, device="cuda").expand(N)
    ops.sparse_ascent_([x], [grad], [at], 2.0)
    ops.sparse_sgd_([x], [grad], [at], [], [1], 0.5, 0.0, 0.0, 0.0, False, False)
    assert x[at].tolist() == [1.5] * len(PLACES)
    assert sum(int(part.count_nonzero()) for part in chunks(x)) == len(PLACES)


def test_randomk_over_2_to_the_32_coordinates_does_not_depend_on_where_tensors_end() -> None:
    need(24)
    cut = [2**31 - 1, 2**31 + 1, 17]
    (whole,) = ops.randomk_select([N], 100_000, 3, device="cuda")
    parts = ops.randomk_select(cut, 100_000, 3, device="cuda")
    assert whole.dtype == torch.int64
    assert [p.dtype for p in parts] == [torch.int32, torch.int64, torch.int32]
    starts = [0, cut[0], cut[0] + cut[1]]
    joined = torch.cat([p.long() + start for p, start in zip(parts, starts, strict=True)])
    assert whole.equal(joined)
    assert bool((whole[1:] > whole[:-1]).all())
    assert int(whole[-1]) < N
    # Half of them on each side of the middle: 100,000 draws have a standard deviation of 158.
    assert abs(int((whole < N // 2).sum()) - 50_000) < 6 * 158


def test_a_score_is_accumulated_and_ranked_beyond_2_to_the_32() -> None:
    need(48)
    grad = torch.zeros(N, dtype=torch.bfloat16, device="cuda")
    grad[places()] = torch.arange(2, 2 + len(PLACES), device="cuda").bfloat16()
    score = torch.zeros(N, dtype=torch.float32, device="cuda")
    ops.score_accumulate_([score], [grad], "fisher", 1.0)
    index, _, threshold = ops.score_accumulate_topk_([score], [grad], "fisher", 1.0, [len(PLACES)])
    assert index.tolist() == PLACES
    assert threshold.tolist() == [8.0]
    assert score[places()].tolist() == [2.0 * v * v for v in range(2, 2 + len(PLACES))]


@pytest.mark.parametrize("norm", [None, "l2", "linf"])
def test_a_shift_reaches_both_sides_of_2_to_the_32(norm: str | None) -> None:
    need(40)
    x = torch.full((1, N), 0.5, dtype=torch.bfloat16, device="cuda")
    g = torch.zeros_like(x).requires_grad_()
    with torch.no_grad():
        g[0, places()] = 20.0
    out = ops.spd_perturb(x, g, eps=0.25, norm=norm, radius=0.25)
    moved = 0.25 / math.sqrt(len(PLACES)) if norm == "l2" else 0.25
    assert int((out != 0.5).sum()) == len(PLACES)
    assert out[0, places()].eq(torch.tensor(0.5 + moved).bfloat16().cuda()).all()
    (dg,) = torch.autograd.grad(out, g, x)
    assert not dg[0, places()].any()  # tanh is flat there
    elsewhere = dg[0, torch.tensor([2, 2**31 + 1, 2**32 + 1], device="cuda")].float()
    torch.testing.assert_close(elsewhere, torch.full_like(elsewhere, 0.125 * moved / 0.25), rtol=2.0**-8, atol=0)
