from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fgunlearn import ops
from fgunlearn.ops.spd_perturb import spd_perturb_ref

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
NORMS = (None, "l2", "linf")
ROUNDING = {torch.float32: 2e-6, torch.float64: 1e-13, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def tanh(g: Tensor) -> Tensor:
    """The op's tanh, by itself."""
    return ops.spd_perturb(torch.zeros_like(g), g, eps=1.0, lo=-2.0, hi=2.0)


def bits(x: Tensor) -> Tensor:
    return x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


@st.composite
def inputs(draw: st.DrawFn) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """A batch and a rule. No x + delta is near a limit, where a last bit of tanh decides on a gradient."""
    shape = draw(
        st.sampled_from(
            [(5,), (1, 1), (3, 0), (0, 7), (2, 3, 5, 4), (2, 1, 1, 6), (1, 2, 3, 2, 2), (17, 300), (2, 40_001)]
        )
    )
    dtype = draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    place = torch.randint(0, 3, shape, generator=generator)
    x = torch.tensor([-2.0, 0.35, 2.0])[place] + 0.3 * torch.rand(shape, generator=generator)
    x, g = x.to(dtype), (2 * torch.randn(shape, generator=generator)).clamp(-6, 6).to(dtype)
    layout = draw(st.sampled_from(["contiguous", "channels last", "mixed", "transposed", "sliced", "expanded"]))
    if layout in ("channels last", "mixed") and len(shape) in (4, 5):
        last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
        x, g = x.contiguous(memory_format=last), g if layout == "mixed" else g.contiguous(memory_format=last)
    if layout == "transposed":
        x, g = (t.transpose(0, -1).contiguous().transpose(0, -1) for t in (x, g))
    if layout == "sliced":
        x, g = (torch.stack([t, t], dim=-1)[..., 0] for t in (x, g))
    if layout == "expanded" and 0 not in shape:
        g = g[:1].expand(shape)
    eps: float | Tensor = draw(st.floats(0.01, 0.3))
    if draw(st.booleans()):
        eps = 0.01 + 0.29 * torch.rand(
            shape[0], generator=generator, dtype=draw(st.sampled_from([torch.float32, torch.float64]))
        )
    radius = draw(st.sampled_from([1e-3, 0.2, 1.0, 1e4]))
    return x, g, {"eps": eps, "norm": draw(st.sampled_from([*NORMS, "none"])), "radius": radius}


@given(case=inputs())
@settings(max_examples=100, deadline=None)
def test_it_equals_its_specification_and_leaves_its_inputs_alone(case: tuple[Tensor, Tensor, dict[str, Any]]) -> None:
    x, g, how = case
    before = x.clone(), g.clone()
    x, g = x.requires_grad_(), g.requires_grad_()
    got, wanted = ops.spd_perturb(x, g, **how), spd_perturb_ref(x, g, **how)
    rounding = ROUNDING[x.dtype]
    torch.testing.assert_close(got, wanted, rtol=rounding, atol=rounding)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype)
    # Rounding in a sum over a sample moves all its gradients.
    rounding *= 4
    for a, b in zip(torch.autograd.grad(got, (x, g), weight), torch.autograd.grad(wanted, (x, g), weight), strict=True):
        torch.testing.assert_close(a, b, rtol=rounding, atol=rounding)
    assert x.detach().equal(before[0])
    assert g.detach().equal(before[1])


@pytest.mark.parametrize("norm", NORMS)
def test_the_result_has_the_memory_format_of_x(norm: str | None) -> None:
    x, g = torch.rand(4, 3, 5, 6), torch.randn(4, 3, 5, 6)
    expected = ops.spd_perturb(x, g, eps=0.3, norm=norm)
    last = torch.channels_last
    for a, b in ((x.to(memory_format=last), g), (x.to(memory_format=last), g.to(memory_format=last))):
        out = ops.spd_perturb(a, b, eps=0.3, norm=norm)
        assert out.is_contiguous(memory_format=last)
        torch.testing.assert_close(out, expected, rtol=0, atol=0 if norm != "l2" else 1e-7)
    assert ops.spd_perturb(x, g.to(memory_format=last), eps=0.3, norm=norm).is_contiguous()
    assert ops.spd_perturb(x.transpose(0, 1), g.transpose(0, 1), eps=0.3, norm=norm).is_contiguous()


def test_tanh_of_floats_is_within_3_ulp() -> None:
    magnitudes = torch.arange(0, 0x41400000, 997, dtype=torch.int32).view(torch.float32)  # from 0 on, over all scales
    exact = torch.tanh(magnitudes.double())
    below = exact.float()
    ulp = (torch.nextafter(below, torch.tensor(2.0)) - below).double()
    assert float(((tanh(magnitudes).double() - exact).abs() / ulp).max()) < 2.7
    assert tanh(-magnitudes).equal(-tanh(magnitudes))


def test_tanh_of_doubles_is_within_4_roundings_of_torchs() -> None:
    g = torch.cat(
        [torch.linspace(-22, 22, 200_001, dtype=torch.float64), torch.logspace(-308, 1, 20_001, dtype=torch.float64)]
    )
    torch.testing.assert_close(tanh(g), torch.tanh(g), rtol=4 * 2.0**-53, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_saturates_exactly_and_keeps_nan_zeros_and_small_numbers(dtype: torch.dtype) -> None:
    g = torch.tensor([math.inf, 1e4, 20.0, -20.0, -math.inf, 0.0], dtype=dtype)
    assert tanh(g).tolist() == [1.0, 1.0, 1.0, -1.0, -1.0, 0.0]
    small = torch.finfo(dtype).smallest_normal * torch.tensor([1.0, -1.0, 0.5, 0.25], dtype=dtype)
    assert tanh(small).equal(small)
    assert tanh(torch.tensor([math.nan], dtype=dtype)).isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_nan_propagates_in_its_sample_and_no_further(dtype: torch.dtype, norm: str | None) -> None:
    x, g = torch.full((3, 4), 0.5, dtype=dtype), torch.ones(3, 4, dtype=dtype)
    x[0, 1] = g[1, 2] = math.nan
    out = ops.spd_perturb(x, g, eps=0.5, norm=norm, radius=0.1)
    assert out.isnan().equal(spd_perturb_ref(x, g, eps=0.5, norm=norm, radius=0.1).isnan())
    assert out.isnan().sum(dim=1).tolist() == [1, 1 if norm is None else 4, 0]


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("samples", [1, 20])  # the parts of one for all workers; samples for each
@pytest.mark.parametrize("at", [0, 40_000, 99_999])
def test_a_nan_anywhere_in_a_large_sample_makes_all_of_it_nan(norm: str, samples: int, at: int) -> None:
    x, g = torch.full((samples, 100_000), 0.5), torch.ones(samples, 100_000)
    g[0, at] = math.nan
    g.requires_grad_()
    out = ops.spd_perturb(x, g, eps=0.5, norm=norm, radius=0.1)
    (dg,) = torch.autograd.grad(out, g, torch.ones_like(x))
    for found in (out, dg):
        assert found.isnan().sum(dim=1).tolist() == [100_000, *[0] * (samples - 1)]


@pytest.mark.parametrize("norm", NORMS)
def test_delta_lies_in_its_ball_and_in_the_box(norm: str | None) -> None:
    x, g = torch.full((50, 3, 8, 8), 0.5, dtype=torch.float64), 3 * torch.randn(50, 3, 8, 8, dtype=torch.float64)
    g[:25] *= 1e-3
    delta = ops.spd_perturb(x, g, eps=0.2, norm=norm, radius=0.1) - x
    free = 0.2 * torch.tanh(g)
    if norm is None:
        torch.testing.assert_close(delta, free, rtol=0, atol=1e-15)
        return
    size = torch.linalg.vector_norm(delta.flatten(1), 2 if norm == "l2" else math.inf, dim=1)
    assert bool((size <= 0.1 + 1e-12).all())
    torch.testing.assert_close(size[25:], torch.full((25,), 0.1, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(delta[:25], free[:25], rtol=0, atol=1e-15)  # inside: not scaled


def test_the_same_bits_on_any_number_of_threads(threads: Callable[[int], None]) -> None:
    shapes = [(1, 300_001), (3, 70_003), (40, 33_000), (5_000, 64)]  # one sample for all workers, many for each
    for shape in shapes:
        for norm in NORMS:
            answers = []
            for count in (1, 2, 5):
                threads(count)
                torch.manual_seed(0)
                x, g = torch.rand(shape), torch.randn(shape).requires_grad_()
                out = ops.spd_perturb(x, g, eps=0.3, norm=norm, radius=0.5)
                answers.append((out.detach(), *torch.autograd.grad(out, g, torch.randn(shape))))
            for other in answers[1:]:
                assert all(a.equal(b) for a, b in zip(answers[0], other, strict=True)), (shape, norm)


_DIGEST = """
import hashlib, torch, fgunlearn as fg
digest = hashlib.sha256()
for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
    for norm in (None, "l2", "linf"):
        torch.manual_seed(0)
        x, g, weight = (4 * torch.randn(3, 5_003) for _ in range(3))
        g[1, :4] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-40])
        x[2, 7] = float("nan")
        x, g = x.to(dtype).requires_grad_(), g.to(dtype).requires_grad_()
        out = fg.ops.spd_perturb(x, g, eps=0.7, norm=norm, radius=0.5, lo=-3.0, hi=3.0)
        for t in (out, *torch.autograd.grad(out, (x, g), weight.to(dtype))):
            digest.update(t.detach().view(torch.uint8).numpy().tobytes())
print(fg.build_info()["simd"], digest.hexdigest())
"""


def test_the_same_bits_on_every_instruction_set() -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _DIGEST],
            env=os.environ | {"FGUNLEARN_SIMD": name},
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("scalar", "avx2", "avx512")
    ]
    answers = dict(process.communicate()[0].split() for process in running)
    assert "scalar" in answers
    assert len(set(answers.values())) == 1, answers


def test_every_half_is_rounded_once() -> None:
    every = torch.arange(0, 65_536, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        g = every.view(dtype)
        wide = tanh(g.float())
        assert tanh(g).nan_to_num(7.0).equal(wide.to(dtype).nan_to_num(7.0))
        x = torch.where(g.isnan(), 0, g)
        kept = ops.spd_perturb(x, torch.zeros_like(x), eps=1.0, lo=-math.inf, hi=math.inf)
        assert bits(kept).equal(bits(x + 0.0))


X, G = torch.full((2, 3), 0.5), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"eps": 0.0}, "eps must be finite and > 0, got 0.0"),
        ({"eps": -0.1}, "eps must be finite and > 0, got -0.1"),
        ({"eps": math.nan}, "eps must be finite and > 0, got nan"),
        ({"eps": math.inf}, "eps must be finite and > 0, got inf"),
        ({"radius": 0.0}, "radius must be finite and > 0, got 0.0"),
        ({"radius": math.nan}, "radius must be finite and > 0, got nan"),
        ({"eps": torch.ones(3)}, r"eps must have shape \(2,\), one per sample, got \(3,\)"),
        ({"eps": torch.tensor(0.1)}, r"eps must have shape \(2,\), one per sample, got \(\)"),
        ({"eps": torch.ones(2, dtype=torch.int64)}, "eps must be float32, .* got torch.int64"),
        ({"eps": torch.ones(2, device="meta")}, "x is on cpu and eps on meta"),
        ({"eps": torch.ones(2, requires_grad=True)}, "eps gets no gradient"),
        ({"lo": 1.0}, "lo must be less than hi, got 1.0 and 1.0"),
        ({"lo": 2.0}, "lo must be less than hi, got 2.0 and 1.0"),
        ({"lo": math.nan}, "lo must be less than hi, got nan and 1.0"),
        ({"hi": math.nan}, "lo must be less than hi, got 0.0 and nan"),
        ({"norm": "l1"}, "norm must be None, 'none', 'l2' or 'linf', got 'l1'"),
        ({"outside": "raise"}, "outside must be 'clamp' or 'error', got 'raise'"),
        ({"g": torch.ones(3, 2)}, r"x has shape \(2, 3\) and g \(3, 2\)"),
        ({"g": torch.ones(2, 3, dtype=torch.int32)}, "g must be float32, .* got torch.int32"),
        ({"g": torch.ones(2, 3, device="meta")}, "x is on cpu and g on meta"),
        ({"x": torch.ones(2, 3, dtype=torch.complex64)}, "x must be float32, .* got torch.complex64"),
        ({"x": torch.tensor(0.5), "g": torch.tensor(0.5)}, "x must have a first dimension"),
    ],
)
def test_bad_input_is_refused_by_name_and_value(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"spd_perturb: {words}"):
        ops.spd_perturb(**{"x": X, "g": G, "eps": 0.1, **changed})


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_bad_value_in_a_per_sample_eps_is_refused(bad: float) -> None:
    with pytest.raises(RuntimeError, match=rf"spd_perturb: eps\[1\] must be finite and > 0, got {bad:g}"):
        ops.spd_perturb(X, G, eps=torch.tensor([0.1, bad]))


@pytest.mark.parametrize(
    ("position", "value", "words"),
    [
        (1, torch.ones(3, 2), r"x\[0\] has shape \(2, 3\) and g\[0\] has shape \(3, 2\)"),
        (1, torch.ones(2, 3).half(), "g must have the dtype of x"),
        (1, torch.ones(2, 3).to_sparse(), "g must be a strided tensor"),
        (2, torch.ones(3), "eps must be 1-D with 2 values, one per sample; it has 1 dimensions and 3 values"),
        (3, 0.0, "eps must be finite and > 0, got 0"),
        (4, "l1", "norm must be 'none', 'l2' or 'linf', got 'l1'"),
        (5, -1.0, "radius must be finite and > 0, got -1"),
        (6, 1.0, "lo must be less than hi, got 1 and 1"),
    ],
)
def test_the_raw_op_checks_too(position: int, value: object, words: str) -> None:
    arguments: list[Any] = [X, G, None, 0.1, "none", 1.0, 0.0, 1.0]
    arguments[position] = value
    with pytest.raises(RuntimeError, match=words):
        torch.ops.fgunlearn.spd_perturb(*arguments)


@pytest.mark.parametrize(("bad", "shown"), [(-0.25, "-0.25"), (1.5, "1.5"), (math.nan, "nan")])
def test_what_lies_outside_is_clamped_or_an_error(bad: float, shown: str) -> None:
    x = torch.tensor([[0.0, 1.0, bad]])
    out = ops.spd_perturb(x, torch.zeros(1, 3), eps=0.1)
    assert out.nan_to_num(7.0).tolist() == [[0.0, 1.0, {-0.25: 0.0, 1.5: 1.0}.get(bad, 7.0)]]
    with pytest.raises(ValueError, match=rf"x must lie in \[0.0, 1.0\], and holds {shown}"):
        ops.spd_perturb(x, torch.zeros(1, 3), eps=0.1, outside="error")
    assert ops.spd_perturb(x[:, :2], torch.zeros(1, 2), eps=0.1, outside="error").tolist() == [[0.0, 1.0]]
    assert ops.spd_perturb(x[:0], torch.zeros(0, 3), eps=0.1, outside="error").shape == (0, 3)
