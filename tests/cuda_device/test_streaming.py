"""Selections of a model on a CUDA device without its scores ever at hand."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fgunlearn as fg
from fgunlearn.benchmarks.select_memory import layered, mean_square, peak_of

pytestmark = pytest.mark.cuda

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield


@pytest.fixture
def on_cuda(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).cuda()


def moved(batches: Batches) -> Batches:
    return [(x.cuda(), y.cuda()) for x, y in batches]


def same(model: nn.Module, loader: Any, strategy: Any, **how: Any) -> None:
    dense = fg.select(model, loader, None, strategy, retain_loader=loader)
    streamed = fg.select(model, loader, None, strategy, retain_loader=loader, memory="streaming", **how)
    assert streamed == dense
    assert streamed.threshold == dense.threshold
    assert streamed.device == dense.device


@pytest.mark.parametrize("kind", ["grad", "abs_grad", "fisher", "saliency", "fisher_ratio"])
@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("budget", [1, 3_000, None])
def test_it_is_the_dense_selection_bit_for_bit(
    on_cuda: nn.Module, batches: Batches, kind: Any, scope: Any, budget: int | None
) -> None:
    for loader in (moved(batches), moved(batches[:1])):
        same(on_cuda, loader, fg.TopK(0.1, score=kind, scope=scope), memory_budget=budget)
        same(on_cuda, loader, fg.RandomTopK(0.1, score=kind, scope=scope, seed=3), memory_budget=budget)


def test_a_side_stream_will_do(on_cuda: nn.Module, batches: Batches) -> None:
    loader = moved(batches)
    torch.cuda.synchronize()
    # The nodes that accumulate gradients are made on this stream, and kept.
    kept = [p.expand_as(p).grad_fn.next_functions[0][0] for p in on_cuda.parameters() if p.requires_grad]
    with torch.cuda.stream(torch.cuda.Stream()):
        same(on_cuda, loader, fg.TopK(0.1), memory_budget=1)
        same(on_cuda, loader[:1], fg.TopK(0.1))
    assert kept


@pytest.mark.parametrize("memory", ["streaming", "compact"])
def test_a_score_that_is_not_finite_is_refused_with_tensor_and_count(memory: Any) -> None:
    layer = nn.Linear(2, 1, bias=False).cuda()

    def loss(module: nn.Module, x: Tensor) -> Tensor:
        return (module.weight * x).sum()

    with pytest.raises(ValueError, match="score of 'weight' has 1 NaN or infinite values of 2"):
        fg.select(layer, [torch.tensor([[1.0, torch.inf]]).cuda()], loss, fg.TopK(k=1), memory=memory)


def test_it_takes_the_memory_it_says() -> None:
    model = layered(2.5e8, "cuda")
    n = sum(p.numel() for p in model.parameters())
    x = torch.randn(8, 1024, device="cuda")
    mean_square(model, x).backward()  # workspaces of matrix products are no part of it
    model.zero_grad(set_to_none=True)

    def bytes_a_parameter(batches: int, **how: Any) -> float:
        return peak_of(lambda: fg.select(model, [x] * batches, mean_square, fg.TopK(0.01), **how), "cuda") / n

    assert bytes_a_parameter(1, memory="dense") > 7.9
    assert bytes_a_parameter(1, memory="streaming") < 0.5
    assert bytes_a_parameter(2, memory="streaming", memory_budget=n) < 1.5
    assert 1.9 < bytes_a_parameter(2, memory="compact") < 2.5
