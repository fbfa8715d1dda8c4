"""What ranks do to select without ever holding their scores: the answer must be that of one process that does."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import fgunlearn as fg
from fgunlearn.benchmarks.select_memory import layered, mean_square, peak_of
from fgunlearn.distributed.processes import Processes
from on_ranks.models import MESHES, batches, distributed, fsdp, mesh_of, mlp, placements, spread
from on_ranks.selecting import STRATEGIES, Product, broken, data, mean_of_products, same

# One parameter at a time and no room for candidates, so that ties are counted; then everything at once.
BUDGETS = (1, None)
SCORED: list[Any] = [strategy for strategy in STRATEGIES if strategy.score_kind is not None]


def product(shape: tuple[int, ...]) -> nn.Module:
    mesh = mesh_of(shape)
    model = Product()
    fully_shard(model.second, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def shards(rank: int, size: int) -> None:
    """Integer gradients, full of ties: the bits of one process that holds everything."""
    parts = [[data(4, 10 * step + r) for r in range(size)] for step in range(2)]
    joined = [tuple(torch.cat(part) for part in zip(*step, strict=True)) for step in parts]
    mine = [step[rank] for step in parts]
    for shape in MESHES[size]:
        model = product(shape)
        kept = torch.ones_like(model.second.weight)  # type: ignore[operator]
        model.second.weight.grad = kept
        for number, strategy in enumerate(SCORED if shape == (2,) else SCORED[::3]):
            for count in (1, 2):
                expected = fg.select(Product(), joined[:count], mean_of_products, strategy)
                # Of the first strategy both budgets with one batch and with two, of the others each with one of them.
                budgets = BUDGETS if number == 0 else BUDGETS[(number + count) % 2 :][:1]
                for budget in budgets:
                    how: dict[str, Any] = {"memory": "streaming", "memory_budget": budget}
                    found = fg.select(model, mine[:count], mean_of_products, strategy, **how)
                    same(found, expected, (shape, strategy, count, budget))
        for strategy in (fg.TopK(0.3), fg.TopK(0.3, score="abs_grad", scope="tensor"))[: 3 - len(shape)]:
            expected = fg.select(Product(), joined, mean_of_products, strategy, memory="compact")
            same(fg.select(model, mine, mean_of_products, strategy, memory="compact"), expected, (shape, strategy))
        assert model.second.weight.grad is kept
        assert model.first.weight.grad is None  # type: ignore[union-attr]
        assert model.training


def by_hand(rank: int, size: int) -> None:
    """DTensors that no FSDP made: every process has the same batch, and the gradients may come as partial sums."""
    x, y = data(4, 1)
    expected = {strategy: fg.select(Product(), [(x, y)], mean_of_products, strategy) for strategy in SCORED[:3]}
    for shape in MESHES[size][-1:]:
        mesh = mesh_of(shape)
        for places in placements(len(shape)):
            model = spread(Product(), mesh, places)
            whole = tuple(torch.distributed.tensor.Replicate() for _ in shape)
            batch = tuple(distributed(t, mesh, whole) for t in (x, y))

            def loss(model: nn.Module, batch: Any) -> Tensor:
                return mean_of_products(model, batch).full_tensor()  # type: ignore[attr-defined, no-any-return]

            for strategy, one in expected.items():
                budget = BUDGETS[len(strategy.score) % 2]
                found = fg.select(model, [batch], loss, strategy, memory="streaming", memory_budget=budget)
                same(found, one, (shape, places, strategy, budget))


def floats(rank: int, size: int) -> None:
    """Gradients that are no integers, batches of other sizes and loaders that end early: the bits of dense shards."""
    mine = batches([(4, 2), (2,), (1, 2), (6,)][rank], seed=rank)
    cases: list[tuple[torch.dtype, Any, Any, int | None]] = [
        (torch.float32, "grad", "global", 150),  # a few groups of parameters
        (torch.float32, "fisher_ratio", "global", 400),
        (torch.float64, "saliency", "global", None),
        (torch.float64, "fisher", "tensor", 300),
        (torch.bfloat16, "fisher_ratio", "tensor", None),
    ]
    for shape in MESHES[size]:
        for dtype, kind, scope, budget in cases if shape == (size,) else cases[:1]:
            model = fsdp(mlp(dtype=dtype), shape)

            def loss(model: nn.Module, batch: Any, dtype: torch.dtype = dtype) -> Tensor:
                return F.cross_entropy(model(batch[0].to(dtype)).float(), batch[1])

            strategy = fg.TopK(0.3, score=kind, scope=scope)
            retain = mine[::-1] if kind == "fisher_ratio" else None
            dense = fg.select(model, mine, loss, strategy, retain_loader=retain)
            how: dict[str, Any] = {"memory": "streaming", "memory_budget": budget}
            found = fg.select(model, mine, loss, strategy, retain_loader=retain, **how)
            assert found == dense, (shape, dtype, kind, scope)
            assert found.threshold == dense.threshold, (shape, dtype, kind, scope)
            assert all(a.equal(b) for a, b in zip(found.indices, dense.indices, strict=True))


def replicas(rank: int, size: int) -> None:
    group = torch.distributed.group.WORLD
    parts = [[data(4, 10 * r + step) for step in range(r % 3 + 1)] for r in range(size)]
    if size > 2:
        parts[1] = []  # a rank without anything to forget
    everything = [batch for own in parts for batch in own]
    wrapped = DistributedDataParallel(Product())
    for number, strategy in enumerate(SCORED):
        expected = fg.select(Product(), everything, mean_of_products, strategy)
        for budget in BUDGETS:
            how: dict[str, Any] = {"memory": "streaming", "memory_budget": budget, "group": group}
            found = fg.select(Product(), parts[rank], mean_of_products, strategy, **how)
            assert type(found) is fg.Selection
            assert found == expected, (strategy, budget)
            assert (found.threshold, found.seed) == (expected.threshold, expected.seed), (strategy, budget)
        if number < 2:
            inside = fg.select(wrapped, parts[rank], mean_of_products, strategy, memory="streaming", group=group)
            assert all(a.equal(b) for a, b in zip(inside.indices, expected.indices, strict=True)), strategy
    strategy = fg.TopK(0.3, score="fisher_ratio")
    expected = fg.select(Product(), everything, mean_of_products, strategy, retain_loader=everything)
    how = {"retain_loader": parts[rank], "memory": "streaming", "memory_budget": 200, "group": group}
    assert fg.select(Product(), parts[rank], mean_of_products, strategy, **how) == expected
    # Rounded to bfloat16, batch by batch and once more: within the bound of the largest number of batches plus one.
    dense = fg.select(Product(), everything, mean_of_products, fg.TopK(0.3, score="abs_grad"))
    rounded = fg.TopK(0.3, score="abs_grad")
    found = fg.select(Product(), parts[rank], mean_of_products, rounded, memory="compact", group=group)
    assert found.threshold == pytest.approx(dense.threshold, rel=(1 + 2**-8) ** 4 - 1)
    assert found.k == dense.k


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """The bytes that this process hands to collectives of ours; FSDP2's own don't count."""
    seen = {"bytes": 0}
    kept = Processes.sum, Processes.gather

    def adding(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(self: Processes, tensor: Tensor) -> Tensor:
            seen["bytes"] += tensor.nbytes
            return call(self, tensor)

        return counting

    Processes.sum, Processes.gather = map(adding, kept)  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        Processes.sum, Processes.gather = kept  # type: ignore[method-assign]


def sent(rank: int, size: int) -> dict[str, tuple[int, int]]:
    """Bytes and backward passes."""
    mine = batches((4,) * size)[rank : rank + 1]
    found = {}
    for dtype in (torch.float32, torch.float64):
        model = fsdp(mlp(dtype=dtype), (size,))
        passes = 0

        def loss(model: nn.Module, batch: Any, dtype: torch.dtype = dtype, flat: bool = False) -> Tensor:
            nonlocal passes
            passes += 1
            return (model(batch[0].to(dtype)) * (0 if flat else 1)).square().mean()

        def flat(model: nn.Module, batch: Any, loss: Any = loss) -> Tensor:
            return loss(model, batch, flat=True)  # type: ignore[no-any-return]

        for label, how in (("spread", loss), ("plateau", flat)):
            for budget in BUDGETS:
                passes = 0
                with counted() as seen:
                    fg.select(model, mine, how, fg.TopK(0.3), memory="streaming", memory_budget=budget)
                found[f"{str(dtype)[6:]} {label} {budget}"] = seen["bytes"], passes
    return found


def memory(rank: int, size: int) -> dict[str, float]:
    """Peak bytes per parameter of a shard, beside model and batch; 10 layers of about 1e6."""
    ctypes.CDLL(None).mallopt(-3, 2**16)  # M_MMAP_THRESHOLD: freed blocks are given back, as a peak should show
    model = layered(1e7, "cpu")
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh_of((size,)))
    fully_shard(model, mesh=mesh_of((size,)))
    held = sum(p.to_local().numel() for p in model.parameters())  # type: ignore[operator]
    mine = [torch.randn(8, 1024)]
    found = {}
    for way in ("dense", "dense", "streaming", "compact"):  # the first sets up what FSDP2 keeps

        def select(way: Any = way) -> None:
            fg.select(model, mine, mean_square, fg.TopK(0.01, score="abs_grad"), memory=way)

        found[way] = peak_of(select, "cpu") / held
    return found


def death(rank: int, size: int) -> str:
    """Rank 1 dies in the second reading of the data."""
    model, passes = product((size,)), 0

    def loss(model: nn.Module, batch: Any) -> Tensor:
        nonlocal passes
        passes += 1
        if rank == 1 and passes == 2:
            os._exit(3)
        return mean_of_products(model, batch)

    with pytest.raises(RuntimeError) as caught:
        fg.select(model, [data(4, rank)], loss, fg.TopK(0.3), memory="streaming")
    assert passes == 2
    return str(caught.value)


class Changing:
    """Other batches from the third reading on, if ``really``."""

    def __init__(self, given: list[Any], really: bool) -> None:
        self._given, self._really, self._readings = given, really, 0

    def __iter__(self) -> Iterator[Any]:
        self._readings += 1
        return iter([] if self._really and self._readings == 3 else self._given)


def refusals(rank: int, size: int) -> list[str]:
    group = torch.distributed.group.WORLD
    said = []

    def refused(call: Callable[[], Any]) -> None:
        try:
            call()
        except (TypeError, ValueError, RuntimeError, OSError) as error:
            said.append(f"{type(error).__name__}: {error}")
        else:
            said.append("nothing")

    odd = rank == size - 1
    mine = [data(4, rank), data(4, rank + 9)]
    model, bare = product((size,)), Product()

    usual = fg.TopK(0.1)

    def select(model: nn.Module = model, loader: Any = mine, strategy: Any = usual, **how: Any) -> None:
        refused(lambda: fg.select(model, loader, mean_of_products, strategy, **{"memory": "streaming", **how}))

    select(memory="compact" if odd else "streaming")
    select(memory_budget=2 if odd else 1)
    select(loader=iter(mine) if odd else mine)
    select(loader=[] if odd else mine)
    select(loader=Once(odd), memory_budget=1)
    select(strategy=fg.TopK(0.1, scope="channel"))
    select(loader=Changing(mine, odd), memory_budget=1)
    select(bare, loader=Changing(mine, odd), memory_budget=1, group=group)
    select(bare, loader=[], group=group)
    select(bare, loader=Once(odd), group=group)
    select(bare, strategy=fg.TopK(0.1, scope="channel"), group=group)
    overflown = [(x * (1e38 if odd else 1), y * 1e38) for x, y in mine]
    for scope in ("global", "tensor"):
        select(loader=overflown, strategy=fg.TopK(0.1, scope=scope))
        select(bare, loader=overflown, strategy=fg.TopK(0.1, scope=scope), group=group)
    drifted = Product()
    with torch.no_grad():
        if odd:
            drifted.first.weight.mul_(3.0)
            drifted.first.bias.zero_()
    for scope in ("global", "tensor"):
        select(drifted, strategy=fg.TopK(0.2, score="saliency", scope=scope), memory_budget=1, group=group)
    same(
        fg.select(model, mine[:1], mean_of_products, fg.TopK(0.5), memory="streaming"),
        fg.select(model, mine[:1], mean_of_products, fg.TopK(0.5)).full(),
        "and the group is still in step",
    )
    return said


class Once:
    """A loader that breaks, if ``really``; it may be read again."""

    def __init__(self, really: bool) -> None:
        self._really = really

    def __iter__(self) -> Iterator[Any]:
        return broken(self._really)


def unsynchronised(rank: int, size: int) -> list[str]:
    """FSDP2 modules that don't reduce their gradients, on one rank or on all."""
    said = []
    odd = rank == size - 1
    mine = [data(4, rank)]
    model = product((size,))

    def refused(call: Callable[[], Any]) -> None:
        with pytest.raises((ValueError, RuntimeError)) as caught:
            call()
        said.append(str(caught.value))

    def select(**how: Any) -> fg.Selection:
        return fg.select(model, mine, mean_of_products, fg.TopK(0.3), **how)

    expected = select()
    model.set_requires_gradient_sync(False)  # type: ignore[operator]
    refused(select)
    refused(lambda: select(memory="streaming"))
    refused(lambda: fg.score(model, mine, mean_of_products))
    refused(lambda: fg.perturb_(model, expected, fg.Ascent(0.1), loader=mine, loss_fn=mean_of_products))
    refused(lambda: fg.unlearn(model, mine, mine, loss_fn=mean_of_products, strategy=fg.RandomK(0.2)))
    model.set_requires_gradient_sync(not odd)  # type: ignore[operator]
    refused(select)
    model.set_requires_gradient_sync(False)  # type: ignore[operator]
    mean_of_products(model, mine[0]).backward()
    model.set_requires_gradient_sync(True)  # type: ignore[operator]
    refused(select)
    mean_of_products(model, mine[0]).backward()
    model.zero_grad()
    assert select() == expected
    assert select(memory="streaming") == expected
    model.set_requires_all_reduce(False)  # type: ignore[operator]
    assert select() == expected  # nothing is replicated
    if size == 2:
        model = product((2, 1))
        model.set_requires_all_reduce(False)  # type: ignore[operator]
        refused(lambda: fg.select(model, mine, mean_of_products, fg.TopK(0.3)))
    return said


def hooks_of_others(rank: int, size: int) -> None:
    """An optimizer that frees gradients, or steps, in the backward pass does neither while scores are made."""
    mine = [data(4, rank)]
    alone, model = product((size,)), product((size,))
    expected = fg.select(alone, mine, mean_of_products, fg.TopK(0.3))
    optimizer = fg.SparseOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), expected, model=model, free_grads=True)
    called: list[Tensor] = []
    handle = model.first.bias.register_post_accumulate_grad_hook(called.append)  # type: ignore[union-attr, operator]
    for memory in ("dense", "streaming", "compact"):
        found = fg.select(model, mine, mean_of_products, fg.TopK(0.3), memory=memory)  # type: ignore[arg-type]
        assert found == expected, memory
    assert not called
    mean_of_products(model, mine[0]).backward()
    assert len(called) == 1
    handle.remove()
    mean_of_products(model, mine[0]).backward()
    assert len(called) == 1
    optimizer.step()


def operations(rank: int, size: int) -> list[str]:
    """Ranks that are about different things."""
    said = []
    model = product((size,))
    mine = [data(4, rank)]
    selection = fg.select(model, mine, mean_of_products, fg.TopK(0.3))
    other = fg.select(model, [], None, fg.RandomK(0.3))
    calls: list[tuple[Callable[[], Any], Callable[[], Any]]] = [
        (
            lambda: fg.select(model, mine, mean_of_products, fg.TopK(0.3)),
            lambda: fg.score(model, mine, mean_of_products),
        ),
        (lambda: fg.select(model, mine, mean_of_products, fg.TopK(0.3)), selection.full),  # type: ignore[attr-defined]
        (lambda: fg.perturb_(model, selection, fg.Zero()), lambda: selection.save("nowhere")),
        (lambda: selection | other, lambda: selection & other),
        (other.full, selection.full),  # type: ignore[attr-defined]
        (lambda: selection.shard(model), lambda: fg.unlearn(model, mine, mine, strategy=fg.RandomK(0.1))),
    ]
    for usual, odd in calls:
        with pytest.raises(ValueError, match="don't agree") as caught:
            (odd if rank == size - 1 else usual)()
        said.append(str(caught.value))
    assert fg.select(model, mine, mean_of_products, fg.TopK(0.3)) == selection
    return said
