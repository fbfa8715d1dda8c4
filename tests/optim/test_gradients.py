from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fgunlearn as fg

KINDS: list[tuple[Any, dict[str, Any]]] = [
    (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    (torch.optim.AdamW, {"lr": 0.05}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_freed_gradients_take_the_steps_of_whole_ones_bit_for_bit(
    kind: Any, options: dict[str, Any], dtype: torch.dtype, set_to_none: bool, mlp: Any, choose: Any, loss_of: Any
) -> None:
    free, whole = mlp(dtype), mlp(dtype)
    selection = choose(mlp())
    optimizers = [
        fg.SparseOptimizer(kind(free.parameters(), **options), selection, free_grads=True),
        fg.SparseOptimizer(kind(whole.parameters(), **options), selection),
    ]
    with fg.no_drift(free, selection):
        for step in range(4):
            for model, optimizer in zip((free, whole), optimizers, strict=True):
                optimizer.zero_grad(set_to_none=set_to_none)
                for micro in range(3):
                    (loss_of(model, 10 * step + micro) / 3).backward()
                fg.clip_grad_norm_(optimizer, 0.1)
                optimizer.step()
    assert all(p.equal(q) for p, q in zip(free.parameters(), whole.parameters(), strict=True))
    for p, mask in zip(free.parameters(), selection.masks(), strict=True):
        assert p.grad is not None
        assert p.grad.layout == torch.sparse_coo
        assert p.grad._values().numel() == int(mask.sum())


def test_dense_gradients_never_exist_all_at_once() -> None:
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(8)))
    optimizer = fg.SparseOptimizer(
        torch.optim.AdamW(model.parameters()), fg.select(model, [], None, fg.RandomK(0.01)), free_grads=True
    )
    alive: list[Any] = []
    most = [0]

    def count(grad: Tensor) -> None:
        alive.append(weakref.ref(grad))
        most[0] = max(most[0], sum(ref() is not None for ref in alive))

    for p in model.parameters():
        p.register_hook(count)
    model(torch.randn(4, 64)).square().mean().backward()
    assert len(alive) == 8
    assert most[0] <= 2
    optimizer.step()


@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_gradient_that_is_kept_for_differentiation_stays(mlp: Any, choose: Any, loss_of: Any) -> None:
    model = mlp(torch.float64)
    fg.SparseOptimizer(torch.optim.SGD(model.parameters()), choose(mlp()), free_grads=True)
    loss_of(model).backward(create_graph=True)
    assert all(p.grad is not None and p.grad.layout == torch.strided for p in model.parameters())
    model.zero_grad()  # breaks the cycle of parameter and gradient


def test_torchs_own_clipping_clips_freed_gradients_or_refuses_them(mlp: Any, choose: Any, loss_of: Any) -> None:
    model = mlp()
    optimizer = fg.SparseOptimizer(torch.optim.AdamW(model.parameters()), choose(model), free_grads=True)
    loss_of(model).backward()
    norm = float(_norm_of_freed(model))
    # torch 2.14 can take the norm of a sparse gradient, those before can't. None may not clip without a word.
    try:
        torch.nn.utils.clip_grad_norm_(model.parameters(), norm / 100)
    except NotImplementedError:
        assert float(_norm_of_freed(model)) == norm
    else:
        assert float(_norm_of_freed(model)) == pytest.approx(norm / 100, rel=1e-4)
    optimizer.step()


def _norm_of_freed(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.coalesce().values() for p in model.parameters() if p.grad is not None]).norm()


def test_a_sparse_embedding_gradient_is_refused_where_gradients_are_freed(choose: Any) -> None:
    model = nn.Embedding(5, 3, sparse=True)
    optimizer = fg.SparseOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), choose(model), free_grads=True)
    model(torch.tensor([1])).sum().backward()
    was = model.weight.detach().clone()
    with pytest.raises(TypeError, match="must be dense"):
        optimizer.step()
    assert model.weight.equal(was)


def test_close_ends_it(mlp: Any, choose: Any, loss_of: Any) -> None:
    model = mlp()
    with fg.SparseOptimizer(torch.optim.AdamW(model.parameters()), choose(model), free_grads=True) as optimizer:
        loss_of(model).backward()
        assert model[0].weight.grad.layout == torch.sparse_coo
        optimizer.step()
        optimizer.zero_grad()
    loss_of(model).backward()
    assert model[0].weight.grad.layout == torch.strided
    optimizer.step()


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, float("inf")])
@pytest.mark.parametrize("free_grads", [False, True])
def test_clipping_is_that_of_the_sub_vector(
    norm_type: float, free_grads: bool, mlp: Any, choose: Any, loss_of: Any
) -> None:
    model = mlp()
    selection = choose(model)
    loss_of(model).backward()
    whole = [p.grad.clone() for p in model.parameters()]
    vectors = [nn.Parameter(g[mask]) for g, mask in zip(whole, selection.masks(), strict=True)]
    for vector, g, mask in zip(vectors, whole, selection.masks(), strict=True):
        vector.grad = g[mask].clone()
    model.zero_grad()
    optimizer = fg.SparseOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), selection, free_grads=free_grads)
    for max_norm in (1e-3, 1e3):
        expected = torch.nn.utils.clip_grad_norm_(vectors, max_norm, norm_type)
        optimizer.zero_grad()
        loss_of(model).backward()
        if max_norm == 1e3:
            fg.clip_grad_norm_(optimizer, 1e-3, norm_type)
        got = fg.clip_grad_norm_(optimizer, max_norm, norm_type)
        torch.testing.assert_close(got, expected)
        for vector, p, g, mask in zip(vectors, model.parameters(), whole, selection.masks(), strict=True):
            assert p.grad is not None
            dense = p.grad.to_dense()
            torch.testing.assert_close(dense[mask], vector.grad)
            if not free_grads:
                assert dense[~mask].equal(g[~mask])  # off the selection nothing is scaled


def test_clipping_refuses_what_it_cannot_clip(mlp: Any, choose: Any, loss_of: Any, gradients: Any) -> None:
    model = mlp()
    wrapped = torch.optim.AdamW(model.parameters())
    optimizer = fg.SparseOptimizer(wrapped, choose(model, 1.0))
    assert float(fg.clip_grad_norm_(optimizer, 1.0)) == 0.0  # no gradient yet
    with pytest.raises(TypeError, match="must be a SparseOptimizer, got AdamW"):
        fg.clip_grad_norm_(wrapped, 1.0)  # type: ignore[arg-type]
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="max_norm must be >= 0"):
            fg.clip_grad_norm_(optimizer, bad)
    gradients(model, 0)
    model[0].bias.grad[3] = float("nan")
    was = [p.grad.clone() for p in model.parameters()]
    with pytest.raises(RuntimeError, match=r"order 2.0 of the selected gradient is nan"):
        fg.clip_grad_norm_(optimizer, 1.0, error_if_nonfinite=True)
    assert all(torch.equal(p.grad.nan_to_num(7), g.nan_to_num(7)) for p, g in zip(model.parameters(), was, strict=True))
    assert fg.clip_grad_norm_(optimizer, 1.0).isnan()


def test_a_nan_off_the_selection_does_not_reach_the_norm(mlp: Any, gradients: Any) -> None:
    model = mlp()
    selection = fg.Selection([(8, 6), (8,), (3, 8), (3,)], [torch.tensor([i]) for i in (0, 1, 2, 0)])
    optimizer = fg.SparseOptimizer(torch.optim.AdamW(model.parameters()), selection)
    gradients(model, 0)
    model[0].bias.grad[3] = float("nan")
    assert fg.clip_grad_norm_(optimizer, 1.0, error_if_nonfinite=True).isfinite()


@pytest.mark.parametrize("free_grads", [False, True])
def test_a_scale_too_small_for_float16_still_clips(free_grads: bool) -> None:
    p = nn.Parameter(torch.zeros(1000, dtype=torch.float16))
    selection = fg.Selection([(1000,)], [torch.arange(1000)])
    optimizer = fg.SparseOptimizer(torch.optim.SGD([p], lr=1.0), selection, free_grads=free_grads)
    (p * 6e4).sum().backward()
    fg.clip_grad_norm_(optimizer, 0.01)
    assert p.grad is not None
    torch.testing.assert_close(p.grad.to_dense().float(), torch.full((1000,), 0.01 / 1000**0.5), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("norm_type", [0.0, -1.0, float("-inf"), float("nan"), "inf", True, None])
def test_an_order_that_is_no_norm_is_refused(norm_type: Any, mlp: Any, choose: Any, loss_of: Any) -> None:
    model = mlp()
    optimizer = fg.SparseOptimizer(torch.optim.SGD(model.parameters()), choose(model))
    loss_of(model).backward()
    with pytest.raises(ValueError, match=r"norm_type must be a number > 0 or math.inf, got"):
        fg.clip_grad_norm_(optimizer, 1.0, norm_type)
