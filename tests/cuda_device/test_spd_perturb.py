"""SPD-GAN's shift on a CUDA device, beyond what test_agreement.py and test_streams.py ask of every op."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cases import assert_same_bits
from fgunlearn import ops
from fgunlearn.ops.spd_perturb import spd_perturb_ref

pytestmark = pytest.mark.cuda

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
NORMS = (None, "l2", "linf")
# In the registers of a warp, of a block, in tiles; many samples, few, and more tiles than blocks run at a time.
SHAPES = ((1_000, 1, 8, 8), (64, 3, 32, 32), (3, 3, 224, 224), (300, 3, 64, 64), (1, 5_000_011))


def both(x: Tensor, g: Tensor, **how: Any) -> list[Tensor]:
    """The result and its gradients."""
    x, g = x.detach().requires_grad_(), g.detach().requires_grad_()
    out = ops.spd_perturb(x, g, **how)
    return [out.detach(), *torch.autograd.grad(out, (x, g), g.detach())]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_cpus_whatever_the_sizes(shape: tuple[int, ...], norm: str | None, dtype: torch.dtype) -> None:
    x, g = torch.rand(shape).to(dtype), torch.randn(shape).to(dtype)
    x = torch.where(x < 0.2, -2.0, torch.where(x > 0.8, 2.0, x))  # no x + delta is near a limit
    for how in ({"eps": 0.1, "radius": 0.05}, {"eps": 0.05 + 0.1 * torch.rand(shape[0]), "radius": 1.0}):
        expected = both(x, g, norm=norm, **how)
        there = {name: value.cuda() if isinstance(value, Tensor) else value for name, value in how.items()}
        got = both(x.cuda(), g.cuda(), norm=norm, **there)
        if norm is None:
            assert_same_bits(got, expected)
        else:
            rounding = 8 * torch.finfo(dtype).eps
            for a, b in zip(got, expected, strict=True):
                torch.testing.assert_close(a.cpu(), b, rtol=rounding, atol=rounding)
        for _ in range(5):
            assert_same_bits(both(x.cuda(), g.cuda(), norm=norm, **there), got)


def test_tanh_has_the_cpus_bits_for_floats_of_all_scales() -> None:
    g = torch.arange(0, 0x7F800000, 97, dtype=torch.int32).view(torch.float32)
    g = torch.cat([g, -g, torch.tensor([math.inf, -math.inf, math.nan])])
    x = torch.zeros_like(g)
    how: dict[str, Any] = {"eps": 1.0, "lo": -2.0, "hi": 2.0}
    assert_same_bits([ops.spd_perturb(x.cuda(), g.cuda(), **how)], [ops.spd_perturb(x, g, **how)])


@pytest.mark.parametrize("norm", NORMS)
def test_channels_last_is_read_and_written_in_place(norm: str | None) -> None:
    last = torch.channels_last
    x, g = torch.rand(16, 3, 33, 31).to(memory_format=last).cuda(), torch.randn(16, 3, 33, 31).cuda()
    out = ops.spd_perturb(x, g, eps=0.2, norm=norm, radius=0.5)
    assert out.is_contiguous(memory_format=last)
    torch.testing.assert_close(out, spd_perturb_ref(x, g, eps=0.2, norm=norm, radius=0.5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("radius", [0.1, 100.0])
def test_derivatives_are_those_of_finite_differences(norm: str | None, radius: float) -> None:
    x = (0.35 + 0.3 * torch.rand(3, 7, dtype=torch.float64)).cuda().requires_grad_()
    g = torch.randn(3, 7, dtype=torch.float64).cuda().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, g: ops.spd_perturb(x, g, eps=0.3, norm=norm, radius=radius), (x, g))


@pytest.mark.parametrize("norm", NORMS)
def test_forward_and_backward_are_captured_in_one_graph(norm: str | None) -> None:
    shape = (40, 3, 64, 64)
    x, g = torch.rand(shape, device="cuda"), torch.randn(shape, device="cuda", requires_grad=True)
    eps = torch.full((40,), 0.1, device="cuda")

    def step() -> tuple[Tensor, Tensor]:
        out = ops.spd_perturb(x, g, eps=eps, norm=norm, radius=2.0)
        return out, torch.autograd.grad(out, g, x)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = step()
    with torch.no_grad():
        x.uniform_()
        g.normal_()
        eps.fill_(0.2)
    graph.replay()
    assert_same_bits([t.detach() for t in held], [t.detach() for t in step()])


def test_it_compiles_with_a_generator_under_autocast() -> None:
    layer = torch.nn.Conv2d(3, 3, 3, padding=1).cuda()
    x = torch.rand(8, 3, 32, 32, device="cuda")

    def loss(x: Tensor) -> Tensor:
        return ops.spd_perturb(x, layer(x), eps=0.1, norm="l2").square().mean()

    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss(x).backward()
        wanted = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
        layer.zero_grad()
        torch.compile(loss, backend="aot_eager", fullgraph=True)(x).backward()
    for parameter, grad in zip(layer.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-2, atol=1e-4)


def test_tensors_elsewhere_are_refused() -> None:
    x = torch.rand(2, 3, device="cuda")
    with pytest.raises(ValueError, match="x is on cuda:0 and g on cpu"):
        ops.spd_perturb(x, x.cpu(), eps=0.1)
    with pytest.raises(ValueError, match="x is on cuda:0 and eps on cpu"):
        ops.spd_perturb(x, x, eps=torch.ones(2))
    with pytest.raises(RuntimeError, match="g must be on cuda:0 like the others"):
        torch.ops.fgunlearn.spd_perturb(x, x.cpu(), None, 0.1, "none", 1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"x must lie in \[0.0, 1.0\], and holds 2"):
        ops.spd_perturb(x + 2, x, eps=0.1, outside="error")
