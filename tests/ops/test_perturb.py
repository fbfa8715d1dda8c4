from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.ops.perturb import (
    GAUSSIAN_STREAM,
    RESET_STREAM,
    draw_ref,
    rms_ref,
    sparse_ascent_ref,
    sparse_perturb_ref,
)

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def ulps(a: Tensor, b: Tensor) -> int:
    """Largest distance in units of the last place of float32, for values of equal sign."""
    return int((a.float().view(torch.int32).long() - b.float().view(torch.int32).long()).abs().max())


def noise(n: int, draw: str, offset: int = 0, seed: int = 7) -> Tensor:
    x = torch.zeros(n, dtype=torch.float64)
    ops.sparse_perturb_([x], [torch.arange(n)], [draw], [1.0], [0.0], [1.0], seed, GAUSSIAN_STREAM, [offset])
    return x


@pytest.mark.parametrize("offset", [0, 5, 2**32 - 3, 10**12])
def test_uniform_bits_are_exact_and_normals_within_4_ulp_of_the_specification(offset: int) -> None:
    index = torch.arange(100_000) + offset
    assert noise(100_000, "uniform", offset).equal(draw_ref("uniform", 7, GAUSSIAN_STREAM, index))
    assert ulps(noise(100_000, "normal", offset), draw_ref("normal", 7, GAUSSIAN_STREAM, index)) <= 4


def test_normals_are_normal() -> None:
    z = noise(400_000, "normal")
    assert abs(float(z.mean())) < 4 / math.sqrt(400_000)
    assert abs(float(z.var()) - 1) < 4 * math.sqrt(2 / 400_000)
    # Kolmogorov-Smirnov at the 0.1% level.
    cdf = 0.5 * (1 + torch.erf(z.sort().values / math.sqrt(2)))
    steps = torch.arange(1, 400_001, dtype=torch.float64) / 400_000
    assert float((cdf - steps).abs().max()) < 1.95 / math.sqrt(400_000)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("draw", ["none", "normal", "uniform"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("channels_last", [False, True])
def test_it_equals_its_specification(dtype: torch.dtype, draw: str, keep: float, channels_last: bool) -> None:
    theta = [torch.randn(2, 3, 5, 4).to(dtype), torch.randn(40, 33).to(dtype), torch.tensor(2.0, dtype=dtype)]
    if channels_last:
        theta[0] = theta[0].to(memory_format=torch.channels_last)
    index = [torch.arange(0, 120, 2, dtype=torch.int32), torch.arange(5, 1320, 3), torch.tensor([0])]
    arguments: tuple[Any, ...] = (index, [draw] * 3, [keep] * 3, [0.25] * 3, [0.5] * 3, 3, RESET_STREAM, [0, 120, 1440])
    expected = sparse_perturb_ref(theta, *arguments)
    ops.sparse_perturb_(theta, *arguments)
    for got, wanted in zip(theta, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12 if dtype == torch.float64 else 3e-7, atol=1e-12)


def test_nothing_off_the_selection_moves_by_a_bit() -> None:
    x = torch.randn(10_000)
    before, index = x.clone(), torch.arange(0, 10_000, 7)
    ops.sparse_perturb_([x], [index], ["normal"], [1.0], [0.0], [0.1], 0, GAUSSIAN_STREAM, [0])
    moved = (x != before).nonzero().flatten()
    assert moved.equal(index)


def test_noise_depends_on_seed_stream_and_place_and_on_nothing_else() -> None:
    whole = noise(1_000, "normal")
    assert noise(400, "normal", offset=600).equal(whole[600:])
    assert not noise(1_000, "normal", seed=8).equal(whole)
    other = torch.zeros(1_000, dtype=torch.float64)
    ops.sparse_perturb_([other], [torch.arange(1_000)], ["normal"], [1.0], [0.0], [1.0], 7, RESET_STREAM, [0])
    assert not other.equal(whole)


def test_redrawing_does_not_look_at_the_old_value() -> None:
    x = torch.tensor([math.nan, math.inf, 1.0])
    ops.sparse_perturb_([x], [torch.arange(3)], ["none"], [0.0], [0.5], [0.0], 0, RESET_STREAM, [0])
    assert x.tolist() == [0.5, 0.5, 0.5]


def test_hundreds_of_tensors_equal_the_specification_in_one_call() -> None:
    theta = [torch.randn(n % 50, 7) for n in range(300)]
    index = [torch.arange(0, t.numel(), 1 + n % 3) for n, t in enumerate(theta)]
    draw = [("none", "normal", "uniform")[n % 3] for n in range(300)]
    keep = [0.0 if n % 4 else 1.0 for n in range(300)]
    offsets = [0]
    for t in theta[:-1]:
        offsets.append(offsets[-1] + t.numel())
    arguments: tuple[Any, ...] = (index, draw, keep, [0.5] * 300, [0.1] * 300, 11, RESET_STREAM, offsets)
    expected = sparse_perturb_ref(theta, *arguments)
    ops.sparse_perturb_(theta, *arguments)
    for got, wanted in zip(theta, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=3e-7, atol=1e-12)


def test_the_same_bits_on_any_number_of_threads(threads: Callable[[int], None]) -> None:
    answers = []
    for count in (1, 2, 8):
        threads(count)
        x = torch.linspace(-1, 1, 300_000)
        index = torch.arange(0, 300_000, 3)
        ops.sparse_perturb_([x], [index], ["normal"], [1.0], [0.0], [float(ops.rms([x]))], 0, GAUSSIAN_STREAM, [0])
        answers.append(x)
    assert answers[0].equal(answers[1])
    assert answers[0].equal(answers[2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_ascent_equals_its_specification(dtype: torch.dtype, channels_last: bool) -> None:
    theta, grad = torch.randn(2, 3, 5, 4).to(dtype), torch.randn(2, 3, 5, 4).to(dtype)
    if channels_last:
        theta = theta.to(memory_format=torch.channels_last)
    index = [torch.arange(1, 120, 4)]
    expected = sparse_ascent_ref([theta], [grad], index, 0.3)
    ops.sparse_ascent_([theta], [grad], index, 0.3)
    assert theta.equal(expected[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_is_the_root_of_the_mean_square(dtype: torch.dtype) -> None:
    tensors = [torch.randn(70_003).to(dtype), torch.zeros(0, dtype=dtype), torch.tensor(-3.0, dtype=dtype)]
    torch.testing.assert_close(ops.rms(tensors), rms_ref(tensors), rtol=1e-12, atol=0)
    assert ops.rms(tensors)[1:].tolist() == [0.0, 3.0]


GOOD: dict[str, Any] = {
    "draw": ["normal"], "keep": [1.0], "shift": [0.0], "scale": [1.0], "seed": 0, "stream": 2, "offsets": [0],
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"draw": ["cauchy"]}, r"draw\[0\] must be 'none', 'normal' or 'uniform', got 'cauchy'"),
        ({"draw": []}, "theta has 1 entries and draw has 0"),
        ({"keep": [math.nan]}, "must be finite, got nan"),
        ({"scale": [math.inf]}, "must be finite"),
        ({"offsets": [-1]}, r"offsets\[0\] must be >= 0, got -1"),
        ({"offsets": [2**63 - 2]}, r"and with the tensor's 3 elements not below 2\^63"),
        ({"offsets": []}, "offsets has 0"),
        ({"stream": -1}, "stream must fit in 32 bits, got -1"),
        ({"indices": [torch.tensor([3])]}, r"= 3 is out of range"),
        ({"indices": []}, "got 0 index tensors for 1 tensors"),
    ],
)
def test_bad_input_is_refused_and_theta_stays(changed: dict[str, Any], words: str) -> None:
    theta = torch.ones(3)
    arguments = {"indices": [torch.tensor([0, 2])], **GOOD, **changed}
    with pytest.raises(RuntimeError, match=words):
        ops.sparse_perturb_([theta], **arguments)
    assert theta.equal(torch.ones(3))


@pytest.mark.parametrize(
    ("grad", "lr", "words"),
    [
        (torch.ones(4), 0.1, r"theta\[0\] has shape \(3\) and grads\[0\] has shape \(4\)"),
        (torch.ones(3).double(), 0.1, r"grads\[0\] must have the dtype"),
        (torch.ones(3), math.inf, "lr must be finite, got inf"),
    ],
)
def test_bad_gradients_are_refused_and_theta_stays(grad: Tensor, lr: float, words: str) -> None:
    theta = torch.ones(3)
    with pytest.raises(RuntimeError, match=words):
        ops.sparse_ascent_([theta], [grad], [torch.tensor([0])], lr)
    assert theta.equal(torch.ones(3))


def test_an_expanded_tensor_is_refused() -> None:
    theta = torch.ones(1).expand(3)
    with pytest.raises(RuntimeError, match=r"sparse_perturb_: theta\[0\] is expanded"):
        ops.sparse_perturb_([theta], [torch.tensor([0])], **GOOD)
    with pytest.raises(RuntimeError, match=r"sparse_ascent_: theta\[0\] is expanded"):
        ops.sparse_ascent_([theta], [torch.ones(3)], [torch.tensor([0])], 0.1)
    assert theta.tolist() == [1.0, 1.0, 1.0]


def test_an_expanded_gradient_is_read_in_place() -> None:
    theta = torch.zeros(2, 3)
    ops.sparse_ascent_([theta], [torch.ones(()).expand(2, 3)], [torch.arange(6)], 0.5)
    assert theta.equal(torch.full((2, 3), 0.5))


def test_the_ops_pass_opcheck() -> None:
    theta, index = [torch.randn(9)], [torch.tensor([1, 3])]
    torch.library.opcheck(
        torch.ops.fgunlearn.sparse_perturb_, (theta, index, ["normal"], [1.0], [0.0], [1.0], 0, 2, [0])
    )
    torch.library.opcheck(torch.ops.fgunlearn.sparse_ascent_, (theta, [torch.randn(9)], index, 0.1))
    torch.library.opcheck(torch.ops.fgunlearn.rms, (theta,))
