from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fgunlearn as fg

KINDS: list[tuple[Any, dict[str, Any]]] = [
    (torch.optim.SGD, {"lr": 0.05}),
    (torch.optim.SGD, {"lr": 0.05, "weight_decay": 0.01}),
    (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "dampening": 0.2, "maximize": True}),
    (torch.optim.Adam, {"lr": 0.01}),
    (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}),
    (torch.optim.Adam, {"lr": 0.01, "betas": (0.4, 0.9), "maximize": True}),
    (torch.optim.AdamW, {"lr": 0.01}),
    (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}),
    (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fifty_steps_equal_torch_on_the_sub_vector_and_move_nothing_else(
    kind: Any, options: dict[str, Any], dtype: torch.dtype, mlp: Any, choose: Any, gradients: Any, parts: Any
) -> None:
    model, selection = mlp(dtype), choose(mlp())
    sparse = fg.SparseOptimizer(kind(model.parameters(), **options), selection)
    start = [p.detach().clone() for p in model.parameters()]
    vectors = [nn.Parameter(v) for v in parts(model, selection)]
    dense = kind(vectors, **options)
    for step in range(50):
        gradients(model, step)
        for vector, p, mask in zip(vectors, model.parameters(), selection.masks(), strict=True):
            assert p.grad is not None
            vector.grad = p.grad[mask]
        for optimizer in (sparse, dense):
            optimizer.param_groups[0]["lr"] = options["lr"] * (1 + step % 5)
            optimizer.step()
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    for p, was, mask, vector in zip(model.parameters(), start, selection.masks(), vectors, strict=True):
        torch.testing.assert_close(p.detach()[mask], vector.detach(), rtol=tolerance, atol=tolerance)
        assert p.detach()[~mask].equal(was[~mask])


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_fifty_steps_equal_torch_with_masked_gradients_and_restored_weights(
    kind: Any, options: dict[str, Any], mlp: Any, choose: Any, gradients: Any
) -> None:
    ours, theirs = mlp(), mlp()
    selection = choose(ours)
    sparse = fg.SparseOptimizer(kind(ours.parameters(), **options), selection)
    dense = kind(theirs.parameters(), **options)
    start = [p.detach().clone() for p in theirs.parameters()]
    with fg.no_drift(ours, selection):
        for step in range(50):
            lr = options["lr"] * (1 + step % 5)
            sparse.param_groups[0]["lr"] = dense.param_groups[0]["lr"] = lr
            gradients(ours, step)
            gradients(theirs, step)
            sparse.step()
            for p, mask in zip(theirs.parameters(), selection.masks(), strict=True):
                assert p.grad is not None
                p.grad.mul_(mask)
            dense.step()
            for p, was, mask in zip(theirs.parameters(), start, selection.masks(), strict=True):
                p.data[~mask] = was[~mask]
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


@given(
    shapes=st.lists(st.lists(st.integers(0, 7), max_size=3).map(tuple), min_size=1, max_size=5),
    ratio=st.floats(0, 1),
    case=st.integers(0, len(KINDS) - 1),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_shapes_and_selection_move_the_selection_as_torch_and_nothing_else(
    shapes: list[tuple[int, ...]], ratio: float, case: int, dtype: torch.dtype, seed: int
) -> None:
    kind, options = KINDS[case]
    generator = torch.Generator().manual_seed(seed)
    params = [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]
    selection = fg.randomk([p.detach() for p in params], ratio=ratio, seed=seed)
    sparse = fg.SparseOptimizer(kind(params, **options), selection)
    start = [p.detach().clone() for p in params]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    masks = selection.masks()
    vectors = [nn.Parameter(p.detach()[m].to(wide)) for p, m in zip(params, masks, strict=True)]
    dense = kind(vectors, **options)
    grads = [torch.randn(p.shape, generator=generator).to(dtype) for p in params]
    for p, g, vector, mask in zip(params, grads, vectors, masks, strict=True):
        p.grad, vector.grad = g, g[mask].to(wide)
    sparse.step()
    dense.step()
    for p, was, mask, vector in zip(params, start, masks, vectors, strict=True):
        assert p.detach()[~mask].equal(was[~mask])
        eps = max(1e-6, float(torch.finfo(dtype).eps)) if dtype != torch.float64 else 1e-12
        torch.testing.assert_close(p.detach()[mask].to(wide), vector.detach(), rtol=eps, atol=1e-6)
    assert sum(t.numel() for s in sparse.state.values() for n, t in s.items() if n == "exp_avg") in (0, selection.k)


@pytest.mark.parametrize(("kind", "count"), [(torch.optim.SGD, 1), (torch.optim.AdamW, 2)])
def test_state_has_the_size_of_the_selection(kind: Any, count: int, mlp: Any, choose: Any, gradients: Any) -> None:
    model, selection = mlp(torch.bfloat16), choose(mlp())
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = fg.SparseOptimizer(kind(model.parameters(), lr=0.1, **options), selection)
    gradients(model, 0)
    optimizer.step()
    states = [t for state in optimizer.state.values() for name, t in state.items() if name != "step"]
    assert sum(t.numel() for t in states) == count * selection.k
    assert {t.dtype for t in states} == {torch.float32}


def test_param_groups_are_the_wrapped_optimizers_own(mlp: Any, choose: Any, gradients: Any) -> None:
    model = mlp()
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters(), "lr": 0.1}]
    wrapped = torch.optim.AdamW(groups, lr=1.0)
    optimizer = fg.SparseOptimizer(wrapped, choose(model, 1.0))
    was = [p.detach().clone() for p in model.parameters()]
    gradients(model, 0)
    optimizer.step()
    changed = [not p.equal(q) for p, q in zip(model.parameters(), was, strict=True)]
    assert changed == [False, False, True, True]
    wrapped.param_groups[0]["lr"] = 0.1  # an edit of the wrapped optimizer takes effect
    optimizer.step()
    assert not model[0].weight.equal(was[0])
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups[0] is wrapped.param_groups[0]  # still


def test_groups_in_another_order_are_matched_by_name(mlp: Any, choose: Any, gradients: Any, parts: Any) -> None:
    ours, theirs = mlp(), mlp()
    selection = choose(ours)

    def by_decay(model: nn.Module, named: bool) -> list[dict[str, Any]]:
        of = {True: [], False: []}  # type: dict[bool, list[Any]]
        for name, p in model.named_parameters():
            of[name.endswith("bias")].append((name, p) if named else p)
        return [{"params": of[False], "weight_decay": 0.1}, {"params": of[True], "weight_decay": 0.0}]

    with pytest.raises(ValueError, match="pass model= to match them by name"):
        fg.SparseOptimizer(torch.optim.AdamW(by_decay(ours, False)), selection)
    first = fg.SparseOptimizer(torch.optim.AdamW(by_decay(ours, False)), selection, model=ours)
    second = fg.SparseOptimizer(torch.optim.AdamW(by_decay(theirs, True)), selection)
    was = [p.detach().clone() for p in ours.parameters()]
    for model, optimizer in ((ours, first), (theirs, second)):
        gradients(model, 0)
        optimizer.step()
    for p, q, old, mask in zip(ours.parameters(), theirs.parameters(), was, selection.masks(), strict=True):
        assert p.equal(q)
        assert p[~mask].equal(old[~mask])
        assert not bool((p[mask] == old[mask]).any())
    weights = torch.optim.AdamW([p for n, p in ours.named_parameters() if n.endswith("weight")])
    was = [p.detach().clone() for p in ours.parameters()]
    fg.SparseOptimizer(weights, selection, model=ours).step()  # some may be left out
    for (name, p), old, mask in zip(ours.named_parameters(), was, selection.masks(), strict=True):
        assert (p != old).equal(mask if name.endswith("weight") else torch.zeros_like(mask))


def test_parameters_and_groups_can_be_added(mlp: Any, choose: Any, gradients: Any) -> None:
    model = mlp()
    selection = choose(model)
    optimizer = fg.SparseOptimizer(torch.optim.AdamW(model[0].parameters(), lr=0.1), selection, model=model)
    optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.2})
    extra = nn.Parameter(torch.randn(5))
    with pytest.raises(ValueError, match=r"no coordinates for a parameter of shape \(5,\)"):
        optimizer.add_param_group({"params": [extra]})
    optimizer.add_param_group({"params": [extra]}, fg.Selection([(5,)], [torch.tensor([1, 4])]))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2, 0.1]
    was = extra.detach().clone()
    gradients(model, 0)
    extra.grad = torch.ones(5)
    with fg.no_drift(model, selection):
        optimizer.step()
    assert (extra != was).tolist() == [False, True, False, False, True]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_schedulers_closures_and_zero_grad_work(kind: Any, mlp: Any, choose: Any, loss_of: Any) -> None:
    model = mlp()
    optimizer = fg.SparseOptimizer(kind(model.parameters(), lr=0.1), choose(model))
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3)
    later = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, later], [3])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    losses, rates = [], []
    for _ in range(9):
        losses.append(optimizer.step(closure).item())
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    assert losses[-1] < losses[0]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(0.1)
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_step_hooks_run_around_the_step(mlp: Any, choose: Any, gradients: Any) -> None:
    model = mlp()
    optimizer = fg.SparseOptimizer(torch.optim.AdamW(model.parameters()), choose(model))
    seen: list[Tensor] = []
    before = optimizer.register_step_pre_hook(lambda *_: seen.append(model[0].weight.detach().clone()))
    optimizer.register_step_post_hook(lambda *_: seen.append(model[0].weight.detach().clone()))
    gradients(model, 0)
    optimizer.step()
    assert len(seen) == 2
    assert not seen[0].equal(seen[1])
    before.remove()
    optimizer.step()
    assert len(seen) == 3


def test_parameters_without_gradient_are_skipped(mlp: Any, choose: Any, gradients: Any) -> None:
    model = mlp()
    optimizer = fg.SparseOptimizer(torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1), choose(model, 1.0))
    was = model[0].weight.detach().clone()
    gradients(model, 0)
    model[0].weight.grad = None
    optimizer.step()
    assert model[0].weight.equal(was)
    assert model[0].weight not in optimizer.state
    optimizer.step()
    gradients(model, 1)
    optimizer.step()  # each parameter counts its own steps
    assert [int(optimizer.state[p]["step"]) for p in model.parameters()] == [1, 3, 3, 3]


def test_gradients_accumulate_over_micro_batches(mlp: Any, choose: Any, loss_of: Any) -> None:
    ours, theirs = mlp(torch.float64), mlp(torch.float64)
    selection = choose(mlp())
    sparse = fg.SparseOptimizer(torch.optim.SGD(ours.parameters(), lr=0.1), selection)
    dense = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for set_to_none in (True, False):
        for model, optimizer in ((ours, sparse), (theirs, dense)):
            optimizer.zero_grad(set_to_none=set_to_none)
            for micro in range(3):
                (loss_of(model, micro) / 3).backward()
        for p, mask in zip(theirs.parameters(), selection.masks(), strict=True):
            assert p.grad is not None
            p.grad.mul_(mask)
        sparse.step()
        dense.step()
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kind", "options"), [KINDS[4], KINDS[9]])
@pytest.mark.parametrize("free_grads", [False, True])
def test_grad_scaler_unscales_and_skips_as_with_torch(
    kind: Any, options: dict[str, Any], free_grads: bool, mlp: Any, choose: Any, loss_of: Any, parts: Any
) -> None:
    model = mlp()
    selection = choose(model)
    sparse = fg.SparseOptimizer(kind(model.parameters(), **options), selection, free_grads=free_grads)
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0, growth_interval=2)
    vectors = [nn.Parameter(v) for v in parts(model, selection)]
    dense = kind(vectors, **options)
    scales = []
    for step in range(8):
        sparse.zero_grad()
        loss = loss_of(model, step)
        plain = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        bad = step in (0, 3)
        scaler.scale(loss * float("inf") if bad else loss).backward()
        if step == 5:
            scaler.unscale_(sparse)
        if not bad:
            for vector, grad, mask in zip(vectors, plain, selection.masks(), strict=True):
                vector.grad = grad[mask]
            dense.step()
        scaler.step(sparse)
        scaler.update()
        scales.append(scaler.get_scale())
        for now, vector in zip(parts(model, selection), vectors, strict=True):
            torch.testing.assert_close(now, vector.detach(), rtol=1e-5, atol=1e-6)
    assert scales[0] == 256.0
    assert max(scales) > scales[0]


@pytest.mark.parametrize("free_grads", [False, True])
def test_a_compiled_training_step_does_the_same(free_grads: bool, mlp: Any, choose: Any, loss_of: Any) -> None:
    eager, compiled = mlp(), mlp()
    selection = choose(eager)

    def step_of(model: nn.Module) -> Any:
        optimizer = fg.SparseOptimizer(torch.optim.AdamW(model.parameters(), lr=0.01), selection, free_grads=free_grads)
        x, y = torch.randn(16, 6, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3

        def step() -> None:
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    one, other = step_of(eager), torch.compile(step_of(compiled), backend="aot_eager")
    with fg.no_drift(compiled, selection):
        for _ in range(5):
            one()
            other()
    for p, q in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_stochastic_rounding_lets_a_bfloat16_model_follow_small_steps(mlp: Any, choose: Any) -> None:
    moved = {}
    for stochastic in (False, True):
        p = nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
        selection = fg.Selection([(4096,)], [torch.arange(0, 4096, 2)])
        optimizer = fg.SparseOptimizer(
            torch.optim.AdamW([p], lr=1e-4, weight_decay=0.0), selection, stochastic_rounding=stochastic, seed=5
        )
        p.grad = torch.ones_like(p)
        for _ in range(100):
            optimizer.step()
        moved[stochastic] = float(p.detach()[::2].double().mean())
        assert bool((p.detach()[1::2] == 1).all())
    assert moved[False] == 1.0
    assert moved[True] == pytest.approx(1 - 100 * 1e-4, abs=1e-3)


def test_what_it_cannot_wrap_is_refused_by_name(mlp: Any, choose: Any) -> None:
    model = mlp()
    supported = "one of torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, got LBFGS"
    with pytest.raises(TypeError, match=supported):
        fg.SparseOptimizer(torch.optim.LBFGS(model.parameters()), choose(model))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="selection must be a Selection, got list"):
        fg.SparseOptimizer(sgd, [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="made for 2 tensors, the optimizer has 4"):
        fg.SparseOptimizer(sgd, choose(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=r"parameter 0 of the optimizer has shape \(8, 6\), and \(8, 5\)"):
        fg.SparseOptimizer(sgd, choose(nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3))))
    with pytest.raises(ValueError, match=r"another model: parameter 0 is '0.weight' in the model and 'weight'"):
        fg.SparseOptimizer(sgd, choose(nn.Linear(2, 2)), model=model)
    with pytest.raises(ValueError, match="differentiable=True"):
        fg.SparseOptimizer(torch.optim.Adam(model.parameters(), differentiable=True), choose(model))


def test_stochastic_rounding_is_a_function_of_the_global_index() -> None:
    def trained(cuts: list[int], order: list[int], seed: int = 5) -> torch.Tensor:
        """4096 equal coordinates, cut into tensors whose groups come in some order."""
        params = {str(t): nn.Parameter(torch.ones(n, dtype=torch.bfloat16)) for t, n in enumerate(cuts)}
        model = nn.ParameterDict(params)
        selection = fg.select(model, [], None, fg.RandomK(1.0))
        groups = [{"params": [model[str(t)]]} for t in order]
        optimizer = fg.SparseOptimizer(
            torch.optim.SGD(groups, lr=1e-3), selection, model=model, stochastic_rounding=True, seed=seed
        )
        for p in model.values():
            p.grad = torch.ones_like(p)
        optimizer.step()
        return torch.cat([p.detach() for p in model.values()])

    whole = trained([4096], [0])
    assert trained([1000, 3096], [0, 1]).equal(whole)
    assert trained([1000, 96, 3000], [2, 0, 1]).equal(whole)
    assert not trained([4096], [0], seed=6).equal(whole)
    assert not whole[:2048].equal(whole[2048:])


@pytest.mark.parametrize("free_grads", [False, True])
def test_grad_scaler_looks_at_whole_gradients(free_grads: bool) -> None:
    p = nn.Parameter(torch.ones(4))
    selection = fg.Selection([(4,)], [torch.tensor([1])])
    optimizer = fg.SparseOptimizer(torch.optim.SGD([p], lr=0.1), selection, free_grads=free_grads)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale((p * torch.tensor([float("inf"), 1.0, 1.0, 1.0])).sum()).backward()
    scaler.step(optimizer)
    torch.testing.assert_close(p.detach(), torch.tensor([1.0, 0.9 if free_grads else 1.0, 1.0, 1.0]))
