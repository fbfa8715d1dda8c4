from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.ops.score import count_nonfinite_ref, score_accumulate_ref, score_accumulate_topk_ref

KINDS = ("grad", "abs_grad", "fisher")


def pair(dtype: torch.dtype, shape: tuple[int, ...] = (331, 7)) -> tuple[Tensor, Tensor]:
    score_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.randn(shape, dtype=score_dtype), torch.randn(shape).to(dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(331, 7), (), (0,), (1,), (66_000,)])
def test_accumulation_equals_its_specification_bit_for_bit(
    kind: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    score, grad = pair(dtype, shape)
    expected = score_accumulate_ref([score], [grad], kind, 0.37)
    ops.score_accumulate_([score], [grad], kind, 0.37)
    assert score.equal(expected[0])


def test_half_subnormals_are_exact() -> None:
    grad = torch.arange(0, 65_536, dtype=torch.int32).to(torch.int16).view(torch.float16)
    grad = torch.where(grad.isfinite(), grad, torch.zeros_like(grad))
    score = torch.zeros(65_536)
    ops.score_accumulate_([score], [grad], "grad", 1.0)
    assert score.equal(grad.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_zeros_keep_the_sign_that_the_specification_gives_them(kind: str, dtype: torch.dtype) -> None:
    score_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    score = torch.tensor([0.0, -0.0] * 20, dtype=score_dtype)
    grad = torch.tensor([0.0, 0.0, -0.0, -0.0] * 10).to(dtype)
    for weight in (1.0, -1.0):
        got = score.clone()
        ops.score_accumulate_([got], [grad], kind, weight)
        expected = score_accumulate_ref([score], [grad], kind, weight)[0]
        assert got.signbit().equal(expected.signbit())


def test_the_same_bits_on_any_number_of_threads(threads: Callable[[int], None]) -> None:
    grads = [torch.randn(300_001), torch.randn(77).half()]
    answers = []
    for count in (1, 2, 8):
        threads(count)
        scores = [torch.zeros(300_001), torch.zeros(77)]
        for kind in KINDS:
            ops.score_accumulate_(scores, grads, kind, 0.3)
        answers.append(torch.cat(scores))
    assert answers[0].equal(answers[1])
    assert answers[0].equal(answers[2])


def test_gradients_may_have_any_strides() -> None:
    score, grad = torch.zeros(4, 3, 5, 5), torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    ops.score_accumulate_([score], [grad], "abs_grad", 1.0)
    assert score.equal(grad.abs().contiguous())


def test_many_tensors_at_once() -> None:
    pairs = [pair(torch.float32, (n,)) for n in range(300)]
    scores, grads = [s for s, _ in pairs], [g for _, g in pairs]
    expected = score_accumulate_ref(scores, grads, "fisher", 2.0)
    ops.score_accumulate_(scores, grads, "fisher", 2.0)
    assert all(a.equal(b) for a, b in zip(scores, expected, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
def test_accumulating_and_selecting_is_one_after_the_other(kind: str, each: bool, share: float) -> None:
    pairs = [pair(torch.float32, (70_003,)), pair(torch.bfloat16, (40, 3)), pair(torch.float16, (0,))]
    scores, grads = [s for s, _ in pairs], [g for _, g in pairs]
    sizes = [s.numel() for s in scores] if each else [sum(s.numel() for s in scores)]
    k = [round(share * size) for size in sizes]
    new, expected, threshold = score_accumulate_topk_ref(scores, grads, kind, 0.7, k, each)
    indices, found = ops.score_accumulate_topk_(scores, grads, kind, 0.7, k, each)
    assert all(a.equal(b) for a, b in zip(scores, new, strict=True))
    assert all(a.equal(b) and a.dtype == b.dtype for a, b in zip(indices, expected, strict=True))
    assert found.equal(threshold)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("each", [False, True])
def test_a_score_that_is_not_finite_is_refused_with_tensor_and_count(bad: float, each: bool) -> None:
    scores, grads = [torch.zeros(5), torch.zeros(9)], [torch.ones(5), torch.ones(9)]
    grads[1][[2, 8]] = bad
    with pytest.raises(RuntimeError, match=r"score_accumulate_topk_: score\[1\] holds 2 NaN or infinite values"):
        ops.score_accumulate_topk_(scores, grads, "grad", 1.0, [1, 1] if each else [1], each)
    assert scores[0].equal(grads[0])  # the scores are the new ones


@pytest.mark.parametrize(
    ("k", "each", "words"),
    [
        ([4], False, r"k must be in \[0, 3\], got 4"),
        ([1, 1], False, "got 2 values of k for 1 list"),
        ([1, 1], True, "got 2 values of k for 1 tensors"),
        ([-1], True, r"k must be in \[0, 3\], got -1"),
    ],
)
def test_an_impossible_k_is_refused_and_the_scores_stay(k: list[int], each: bool, words: str) -> None:
    score = torch.zeros(3)
    with pytest.raises(RuntimeError, match=words):
        ops.score_accumulate_topk_([score], [torch.ones(3)], "grad", 1.0, k, each)
    assert not score.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_nonfinite_values_are_counted_per_tensor(dtype: torch.dtype) -> None:
    tensors = [
        torch.zeros(5),
        torch.tensor([1.0, math.nan, math.inf, -math.inf, 0.0]),
        torch.zeros(0),
        torch.ones(70_000),
    ]
    tensors[3][[0, 69_999]] = math.nan
    tensors = [t.to(dtype) for t in tensors]
    assert ops.count_nonfinite(tensors).equal(count_nonfinite_ref(tensors))
    assert ops.count_nonfinite(tensors).tolist() == [0, 3, 0, 2]


@pytest.mark.parametrize(
    ("score", "grad", "kind", "weight", "words"),
    [
        ([torch.zeros(3)], [], "grad", 1.0, "score has 1 entries and grad has 0"),
        ([torch.zeros(3)], [torch.ones(4)], "grad", 1.0, r"score\[0\] has shape \(3\) and grad\[0\] has shape \(4\)"),
        ([torch.zeros(3)], [torch.ones(3, dtype=torch.float64)], "grad", 1.0, r"score\[0\] must be float64"),
        ([torch.zeros(3).half()], [torch.ones(3).half()], "grad", 1.0, r"score\[0\] must be float32"),
        ([torch.zeros(3)], [torch.ones(3, dtype=torch.int64)], "grad", 1.0, r"grad\[0\] must be float32"),
        ([torch.zeros(3)], [torch.ones(3)], "square", 1.0, "kind must be .* got 'square'"),
        ([torch.zeros(3)], [torch.ones(3)], "grad", math.nan, "weight must be finite, got nan"),
        ([torch.zeros(6)[::2]], [torch.ones(3)], "grad", 1.0, r"score\[0\] must be contiguous"),
    ],
)
def test_bad_input_is_refused_and_the_scores_stay(
    score: list[Tensor], grad: list[Tensor], kind: str, weight: float, words: str
) -> None:
    with pytest.raises(RuntimeError, match=words):
        ops.score_accumulate_(score, grad, kind, weight)
    assert not any(bool(s.any()) for s in score)


def test_the_ops_pass_opcheck() -> None:
    torch.library.opcheck(torch.ops.fgunlearn.score_accumulate_, ([torch.zeros(9)], [torch.randn(9)], "fisher", 0.5))
    torch.library.opcheck(torch.ops.fgunlearn.count_nonfinite, ([torch.zeros(9)],))
