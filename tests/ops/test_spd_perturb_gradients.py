from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fgunlearn import ops
from fgunlearn.ops.spd_perturb import spd_perturb_ref

NORMS = (None, "l2", "linf")


def batch(*shape: int) -> tuple[Tensor, Tensor]:
    """Doubles whose x + delta lies inside [0, 1] or well outside, for eps up to 0.3."""
    place = torch.randint(0, 3, shape)
    x = torch.tensor([-2.0, 0.35, 2.0], dtype=torch.float64)[place] + 0.3 * torch.rand(shape, dtype=torch.float64)
    return x.requires_grad_(), torch.randn(shape, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("radius", [0.1, 0.5, 100.0])
@pytest.mark.parametrize("eps", [0.3, torch.tensor([0.3, 0.01, 0.2])])
def test_derivatives_are_those_of_finite_differences(norm: str | None, radius: float, eps: float | Tensor) -> None:
    x, g = batch(3, 2, 4)

    def shifted(x: Tensor, g: Tensor) -> Tensor:
        return ops.spd_perturb(x, g, eps=eps, norm=norm, radius=radius)

    assert torch.autograd.gradcheck(shifted, (x, g))
    last = (t.detach()[..., None].to(memory_format=torch.channels_last).requires_grad_() for t in (x, g))
    assert torch.autograd.gradcheck(shifted, tuple(last))


@pytest.mark.parametrize("norm", NORMS)
def test_only_the_gradients_asked_for_are_computed(norm: str | None) -> None:
    x, g = batch(3, 5)
    both = torch.autograd.grad(ops.spd_perturb(x, g, eps=0.3, norm=norm, radius=0.4).sum(), (x, g))
    for wanted in (0, 1):
        a, b = x.detach().requires_grad_(wanted == 0), g.detach().requires_grad_(wanted == 1)
        out = ops.spd_perturb(a, b, eps=0.3, norm=norm, radius=0.4)
        (alone,) = torch.autograd.grad(out.sum(), (a, b)[wanted])
        assert alone.equal(both[wanted])
    rule = (None, 0.3, norm or "none", 0.4, 0.0, 1.0)
    norms = torch.ops.fgunlearn.spd_perturb(x, g, *rule)[1]
    for to_x, to_g in ((True, False), (False, True), (False, False)):
        dx, dg = torch.ops.fgunlearn.spd_perturb_backward(torch.ones_like(x), x, g, norms, *rule, to_x, to_g)
        assert (dx.numel(), dg.numel()) == (15 * to_x, 15 * to_g)


def test_the_limits_themselves_pass_the_gradient_and_nothing_beyond_does() -> None:
    x = torch.tensor([[0.0, 1.0, -1e-6, 1.0 + 1e-6]], requires_grad=True)
    g = torch.zeros(1, 4, requires_grad=True)
    dx, dg = torch.autograd.grad(ops.spd_perturb(x, g, eps=0.5).sum(), (x, g))
    assert dx.tolist() == [[1.0, 1.0, 0.0, 0.0]]
    assert dg.tolist() == [[0.5, 0.5, 0.0, 0.0]]


@pytest.mark.parametrize("function", [ops.spd_perturb, spd_perturb_ref])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_delta_of_zero_has_its_plain_derivative(function: Any, norm: str) -> None:
    g = torch.zeros(2, 3, requires_grad=True)
    (dg,) = torch.autograd.grad(function(torch.full((2, 3), 0.5), g, eps=0.2, norm=norm).sum(), g)
    assert dg.equal(torch.full((2, 3), 0.2))


def test_ties_share_the_derivative_of_the_largest_as_amax_does() -> None:
    g = torch.tensor([[1.0, -1.0, 0.5, 1.0]], dtype=torch.float64, requires_grad=True)
    x, weight = torch.full((1, 4), 0.5, dtype=torch.float64), torch.tensor([[1.0, 2.0, -3.0, 0.5]], dtype=torch.float64)
    how: dict[str, Any] = {"eps": 0.2, "norm": "linf", "radius": 0.1}
    (got,) = torch.autograd.grad(ops.spd_perturb(x, g, **how), g, weight)
    (wanted,) = torch.autograd.grad(spd_perturb_ref(x, g, **how), g, weight)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-15)
    assert bool((got[0, [0, 1, 3]] != 0).all())


def test_a_second_derivative_is_refused_and_the_first_with_create_graph_is_not() -> None:
    x, g = batch(2, 3)
    (dg,) = torch.autograd.grad(ops.spd_perturb(x, g, eps=0.2).square().sum(), g, create_graph=True)
    assert dg.isfinite().all()
    with pytest.raises(RuntimeError, match=r"spd_perturb: there is no second derivative; take it of .*spd_perturb_ref"):
        dg.sum().backward()


def test_x_changed_in_place_before_the_backward_pass_is_noticed() -> None:
    x, g = torch.rand(2, 3), torch.randn(2, 3, requires_grad=True)
    out = ops.spd_perturb(x, g, eps=0.2)
    x.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_g_of_another_dtype_is_converted_and_gets_its_own_gradient(dtype: torch.dtype) -> None:
    x, g = torch.rand(2, 3), torch.randn(2, 3).to(dtype).requires_grad_()
    out = ops.spd_perturb(x, g, eps=0.2, norm="l2", radius=0.1)
    assert out.dtype == x.dtype
    (got,) = torch.autograd.grad(out.sum(), g)
    (wanted,) = torch.autograd.grad(spd_perturb_ref(x, g, eps=0.2, norm="l2", radius=0.1).sum(), g)
    assert got.dtype == dtype
    torch.testing.assert_close(got, wanted, rtol=1e-2, atol=1e-3)


def test_it_works_under_autocast() -> None:
    generator = nn.Conv2d(3, 3, 3, padding=1)
    x = torch.rand(4, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        g = generator(x)
        assert g.dtype == torch.bfloat16
        out = ops.spd_perturb(x, g, eps=0.1, norm="l2")
        assert out.dtype == torch.float32
        out.mean().backward()
    assert generator.weight.grad is not None
    assert generator.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_it_compiles_without_a_graph_break(norm: str | None, per_sample: bool, channels_last: bool) -> None:
    def loss(x: Tensor, g: Tensor, eps: Tensor | float) -> Tensor:
        return ops.spd_perturb(x * 0.5, 2 * g, eps=eps, norm=norm, radius=0.3).square().sum()

    torch.compiler.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=True)
    for shape in ((4, 3, 8, 8), (5, 3, 6, 8)):
        x, g = torch.rand(shape), torch.randn(shape).requires_grad_()
        x = x.to(memory_format=torch.channels_last) if channels_last else x
        eps = torch.full(shape[:1], 0.2) if per_sample else 0.1
        got, wanted = (torch.autograd.grad(f(x, g, eps), g)[0] for f in (compiled, loss))
        assert got.equal(wanted)


@pytest.mark.parametrize("norm", ["none", "l2", "linf"])
def test_the_ops_pass_opcheck(norm: str) -> None:
    for x in (
        torch.rand(3, 2, 4, 4),
        torch.rand(3, 2, 4, 4).to(memory_format=torch.channels_last),
        torch.rand(4, 3).t(),
    ):
        x, g = x.requires_grad_(), torch.randn(x.shape).requires_grad_()
        for eps_each in (None, torch.rand(3) + 0.1):
            rule = (eps_each, 0.3, norm, 0.2, 0.0, 1.0)
            torch.library.opcheck(torch.ops.fgunlearn.spd_perturb, (x, g, *rule))
            norms = torch.ops.fgunlearn.spd_perturb(x, g, *rule)[1]
            inputs = (torch.randn(x.shape), x.detach(), g.detach(), norms)
            for wanted in ((True, False), (False, True)):
                torch.library.opcheck(torch.ops.fgunlearn.spd_perturb_backward, (*inputs, *rule, *wanted))
