"""What does not fit is refused before anything is written; what only the device can see stops the process."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fgunlearn as fg
from fgunlearn import ops

pytestmark = pytest.mark.cuda

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("n", [10, 300_001])
@pytest.mark.parametrize("k", [0, 1, 5, None])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_is_refused_with_tensor_and_count_whatever_k(n: int, k: int | None, dtype: torch.dtype) -> None:
    keys = [torch.ones(n, dtype=dtype, device="cuda"), torch.ones(n, dtype=dtype, device="cuda")]
    keys[1][[2, 7]] = math.nan
    count = 2 * n if k is None else k
    with pytest.raises(RuntimeError, match=r"topk_select: keys\[1\] holds 2 NaN"):
        ops.topk_select(keys, count)
    with pytest.raises(RuntimeError, match=r"topk_select_each: keys\[1\] holds 2 NaN"):
        ops.topk_select_each(keys, [min(count, n)] * 2)
    indices, offsets, threshold = ops.topk_select_packed(keys, count)
    assert indices.shape == (count,)
    assert offsets.shape == (3,)
    assert threshold.isnan().tolist() == [True]


def test_nan_in_a_list_of_tensors_is_named_by_topk() -> None:
    bad = torch.ones(5, device="cuda")
    bad[[1, 2, 3]] = math.nan
    with pytest.raises(ValueError, match="tensor number 1 holds 3 NaN"):
        fg.topk([torch.ones(3, device="cuda"), bad], k=1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("n", [9, 300_001])
def test_a_score_that_is_not_finite_is_refused_and_written(bad: float, each: bool, n: int) -> None:
    scores = [torch.zeros(5, device="cuda"), torch.zeros(n, device="cuda")]
    grads = [torch.ones(5, device="cuda"), torch.ones(n, device="cuda")]
    grads[1][[2, 8]] = bad
    with pytest.raises(RuntimeError, match=r"score_accumulate_topk_: score\[1\] holds 2 NaN or infinite values"):
        ops.score_accumulate_topk_(scores, grads, "grad", 1.0, [1, 1] if each else [1], each)
    assert scores[0].equal(grads[0])


def test_a_sum_that_overflows_is_refused_too() -> None:
    score = torch.full((1_000,), 3e38, device="cuda")
    with pytest.raises(RuntimeError, match=r"score\[0\] holds 1000 NaN or infinite values"):
        ops.score_accumulate_topk_([score], [torch.full_like(score, 3e38)], "grad", 1.0, [10])


@pytest.mark.parametrize("k", [-1, 5])
def test_an_impossible_k_is_refused(k: int) -> None:
    x = torch.ones(4, device="cuda")
    for call in (
        lambda: ops.topk_select([x], k),
        lambda: ops.topk_select_each([x], [k]),
        lambda: ops.topk_select_packed([x], k),
        lambda: ops.randomk_select([4], k, 0, device="cuda"),
        lambda: ops.score_accumulate_topk_([x], [x.clone()], "grad", 1.0, [k]),
    ):
        with pytest.raises(RuntimeError, match=rf"k must be in \[0, 4\], got {k}"):
            call()
    assert x.tolist() == [1.0] * 4


def _x() -> Tensor:
    return torch.full((4,), math.pi, device="cuda")


def _at(device: str = "cuda") -> Tensor:
    return torch.tensor([0, 2], device=device)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: ops.sparse_gather([x], [_at("cpu")]), r"indices\[0\] must be a contiguous 1-D tensor on cuda:0"),
        (lambda x: ops.sparse_gather([x.cpu()], [_at()]), r"tensors\[0\] must be on cuda:0"),
        (lambda x: ops.sparse_gather([x, x.cpu()], [_at(), _at()]), r"tensors\[1\] must be on cuda:0 like the others"),
        (lambda x: ops.sparse_take(x, _at("cpu")), "on cuda:0"),
        (lambda x: ops.sparse_scatter_([x], [_at()], [torch.zeros(2)]), r"values\[0\] must be on cuda:0"),
        (lambda x: ops.sparse_add(x, _at(), torch.zeros(2)), "must be on cuda:0"),
        (lambda x: ops.topk_select([x.cpu(), x], 1), r"keys\[0\] must be on cuda:0"),
        (lambda x: ops.rms([x, x.cpu()]), r"tensors\[1\] must be on cuda:0"),
        (lambda x: ops.score_accumulate_([x], [torch.ones(4)], "grad", 1.0), r"grad\[0\] must be on cuda:0"),
        (lambda x: ops.sparse_ascent_([x], [torch.ones(4)], [_at()], 0.1), r"grads\[0\] must be on cuda:0"),
        (
            lambda x: ops.sparse_perturb_([x], [_at("cpu")], ["none"], [0.0], [0.0], [0.0], 0, 2, [0]),
            r"indices\[0\] must be a contiguous 1-D tensor on cuda:0",
        ),
        (
            lambda x: ops.sparse_sgd_([x], [torch.ones(4)], [_at()], [], [1], 0.1, 0.0, 0.0, 0.0, False, False),
            r"grad\[0\] must be on cuda:0",
        ),
        (lambda x: ops.sparse_gather([x], [_at().double()]), "int32 or int64"),
        (lambda x: ops.sparse_scatter_([x], [_at()], [torch.zeros(1, device="cuda")]), "has 1 elements for 2 indices"),
        (
            lambda x: ops.sparse_scatter_([x[:1].expand(4)], [_at()], [torch.zeros(2, device="cuda")]),
            r"tensors\[0\] is expanded",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(call: Callable[[Tensor], Any], words: str) -> None:
    x = _x()
    with torch.cuda.device(0), pytest.raises(RuntimeError, match=words):
        call(x)
    assert x.equal(_x())


_OUT_OF_RANGE = """
import torch
from fgunlearn import ops
x = torch.zeros(1000, device="cuda")
index = torch.tensor([5, {bad}], device="cuda")
values = torch.ones(2, device="cuda")
torch.cuda.synchronize()
print("ready", flush=True)
{call}
torch.cuda.synchronize()
print("survived", flush=True)
"""


@pytest.mark.parametrize("bad", [-1, 1000, 2**40])
@pytest.mark.parametrize(
    "call",
    [
        "ops.sparse_gather([x], [index])",
        "ops.sparse_scatter_([x], [index], [values])",
        "ops.sparse_add(x, index, values)",
        "ops.sparse_perturb_([x], [index], ['none'], [0.0], [1.0], [0.0], 0, 2, [0])",
        "ops.sparse_ascent_([x], [torch.ones_like(x)], [index], 0.1)",
        "ops.sparse_sgd_([x], [torch.ones_like(x)], [index], [], [1], 0.1, 0.0, 0.0, 0.0, False, False)",
    ],
)
def test_an_index_out_of_range_stops_the_process(bad: int, call: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _OUT_OF_RANGE.format(bad=bad, call=call)], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("ready"), done.stderr
    assert done.returncode != 0
    assert "survived" not in done.stdout
    assert "CUDA error" in done.stderr
