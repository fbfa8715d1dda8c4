from __future__ import annotations

import pytest
import torch
from torch import nn

from fgunlearn import ops
from fgunlearn.ops.sparse_add import sparse_add_ref, sparse_take_ref

INDEX = torch.tensor([0, 3, 4, 11])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("strided", [False, True])
def test_it_equals_its_specification_and_leaves_theta_alone(dtype: torch.dtype, strided: bool) -> None:
    theta = torch.randn(3, 4).to(dtype)
    theta = theta.t().contiguous().t() if strided else theta
    before = theta.clone()
    for delta in (torch.randn(4).to(dtype), torch.randn(4)):
        if dtype == torch.float64 and delta.dtype != dtype:
            delta = delta.float()
        out = ops.sparse_add(theta, INDEX, delta)
        assert out.equal(sparse_add_ref(theta, INDEX, delta))
        assert out.is_contiguous()
        assert out.dtype == dtype
    assert theta.equal(before)


def test_an_empty_index_copies() -> None:
    theta = torch.randn(3)
    out = ops.sparse_add(theta, torch.zeros(0, dtype=torch.int32), torch.zeros(0))
    assert out.equal(theta)
    assert out.data_ptr() != theta.data_ptr()


def test_first_and_second_derivatives_are_right() -> None:
    theta = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    delta = torch.randn(4, dtype=torch.float64, requires_grad=True)

    def square(t: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        return ops.sparse_add(t, INDEX, d) ** 2

    assert torch.autograd.gradcheck(square, (theta, delta))
    assert torch.autograd.gradgradcheck(square, (theta, delta))


def test_a_delta_trains_through_functional_call() -> None:
    model = nn.Linear(4, 3)
    x, y = torch.randn(32, 4), torch.randint(0, 3, (32,))
    delta = torch.zeros(4, requires_grad=True)

    def loss() -> torch.Tensor:
        weight = ops.sparse_add(model.weight.detach(), INDEX, delta)
        return nn.functional.cross_entropy(torch.func.functional_call(model, {"weight": weight}, (x,)), y)

    start = float(loss().detach())
    optimizer = torch.optim.SGD([delta], lr=0.5)
    for _ in range(20):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss().detach()) < start
    assert delta.grad is not None


def test_it_compiles_without_a_graph_break() -> None:
    theta, delta = torch.randn(3, 4), torch.randn(4)

    def f(t: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        return ops.sparse_add(t * 2, INDEX, d).sum()

    compiled = torch.compile(f, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(theta, delta), f(theta, delta))


@pytest.mark.parametrize("in_dims", [(0, None, 0), (None, None, 0), (0, None, None), (2, 1, 1), (None, 0, None)])
def test_vmap_is_a_loop_over_the_batch(in_dims: tuple[int | None, ...]) -> None:
    whole = (torch.randn(5, 3, 4), torch.stack([INDEX] * 4 + [torch.tensor([1, 2, 9, 10])]), torch.randn(5, 4))
    batched = [x[0] if d is None else x.movedim(0, d) for x, d in zip(whole, in_dims, strict=True)]
    alone = [[x[0] if d is None else x[b] for x, d in zip(whole, in_dims, strict=True)] for b in range(5)]
    got = torch.vmap(ops.sparse_add, in_dims=in_dims)(*batched)
    assert got.equal(torch.stack([ops.sparse_add(*one) for one in alone]))


def test_gradients_pass_through_vmap() -> None:
    theta, delta = torch.randn(3, 4), torch.randn(5, 4, requires_grad=True)
    weight = torch.randn(5, 3, 4)
    (torch.vmap(lambda d: ops.sparse_add(theta, INDEX, d))(delta) * weight).sum().backward()
    assert delta.grad is not None
    assert delta.grad.equal(weight.reshape(5, 12)[:, INDEX])


def test_a_batch_of_gradients_passes_in_one_backward() -> None:
    theta, delta = torch.randn(3, 4), torch.randn(4, requires_grad=True)
    out = ops.sparse_add(theta, INDEX, delta)
    rows = torch.randn(5, 3, 4)
    (got,) = torch.autograd.grad(out, delta, rows, is_grads_batched=True)
    assert got.equal(rows.reshape(5, 12)[:, INDEX])


def test_a_half_precision_theta_gives_a_float32_delta_its_gradient() -> None:
    theta, delta = torch.randn(3, 4).bfloat16(), torch.zeros(4, requires_grad=True)
    ops.sparse_add(theta, INDEX, delta).sum().backward()
    assert delta.grad is not None
    assert delta.grad.equal(torch.ones(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "expanded"])
def test_taking_equals_its_specification(dtype: torch.dtype, layout: str) -> None:
    theta = torch.randn(3, 4).to(dtype)
    theta = {"contiguous": theta, "transposed": theta.t(), "expanded": theta[:, :1].expand(3, 4)}[layout]
    assert ops.sparse_take(theta, INDEX).equal(sparse_take_ref(theta, INDEX))
    assert ops.sparse_take(theta, INDEX[:0].int()).shape == (0,)


def test_taking_has_first_and_second_derivatives() -> None:
    theta = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def cube(t: torch.Tensor) -> torch.Tensor:
        return ops.sparse_take(t.t(), INDEX) ** 3

    assert torch.autograd.gradcheck(cube, (theta,))
    assert torch.autograd.gradgradcheck(cube, (theta,))


@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (0, 0), (2, 1)])
def test_taking_under_vmap_is_a_loop_over_the_batch(in_dims: tuple[int | None, int | None]) -> None:
    whole = (torch.randn(5, 3, 4), torch.stack([INDEX] * 4 + [torch.tensor([1, 2, 9, 10])]))
    batched = [x[0] if d is None else x.movedim(0, d) for x, d in zip(whole, in_dims, strict=True)]
    alone = [[x[0] if d is None else x[b] for x, d in zip(whole, in_dims, strict=True)] for b in range(5)]
    got = torch.vmap(ops.sparse_take, in_dims=in_dims)(*batched)
    assert got.equal(torch.stack([ops.sparse_take(*one) for one in alone]))


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3)])
def test_a_number_and_nothing_are_tensors_too(shape: tuple[int, ...]) -> None:
    theta = torch.ones(shape)
    index = torch.arange(theta.numel())
    assert ops.sparse_add(theta, index, torch.ones(theta.numel())).equal(torch.full(shape, 2.0))


@pytest.mark.parametrize(
    ("index", "delta", "words"),
    [
        (torch.tensor([12]), torch.zeros(1), r"indices\[0\]\[0\] = 12 is out of range"),
        (torch.tensor([1]), torch.zeros(2), "delta must be 1-D with 1 elements, one per index; it has 2"),
        (torch.tensor([1]), torch.zeros(1).half(), "theta's dtype or be float32"),
    ],
)
def test_bad_input_is_refused(index: torch.Tensor, delta: torch.Tensor, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        ops.sparse_add(torch.zeros(3, 4), index, delta)


def test_the_ops_pass_opcheck() -> None:
    theta = torch.randn(3, 4, requires_grad=True)
    torch.library.opcheck(torch.ops.fgunlearn.sparse_add, (theta, INDEX, torch.randn(4, requires_grad=True)))
    torch.library.opcheck(torch.ops.fgunlearn.sparse_take, (theta, INDEX))
