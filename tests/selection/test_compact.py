from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fgunlearn as fg
from fgunlearn.batches import cross_entropy
from fgunlearn.parameters import trainable
from fgunlearn.selection import compact
from fgunlearn.selection.compact import compact_scores
from fgunlearn.selection.readings import Source

U = 2.0**-8  # of bfloat16
TERMS = {"grad": lambda g: g, "abs_grad": torch.abs, "fisher": torch.square}


def loader_of(count: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(n, 1, 8, 8), torch.randint(0, 10, (n,))) for n in (5, 16, 7, 3) * (count // 4 + 1)][:count]


def source_of(model: nn.Module, loader: Any, kind: Any, retain: Any = None) -> Source:
    model.eval()
    return Source(model, trainable(model), loader, cross_entropy, kind, retain, False)


def terms_of(source: Source, kind: str, loader: Any) -> list[list[Tensor]]:
    """What each batch adds, in float64, by parameter."""
    terms = []
    for x, y in loader:
        gradients = torch.autograd.grad(F.cross_entropy(source.model(x), y), list(source.parameters.values()))
        terms.append([len(y) * TERMS[kind](g.double()) for g in gradients])
    return [torch.stack(of) for of in zip(*terms, strict=True)]


def growth(count: int) -> float:
    return (1 + U) ** count - 1


@pytest.mark.parametrize("kind", ["grad", "abs_grad", "fisher"])
@pytest.mark.parametrize("count", [1, 2, 8, 60])
def test_sums_are_as_close_as_the_bound_says(model: nn.Module, kind: Any, count: int) -> None:
    loader = loader_of(count)
    source = source_of(model, loader, kind)
    sums, seen = compact_scores(source)
    assert seen == sum(len(y) for _, y in loader)
    used = 0.0
    for found, terms in zip(sums.values(), terms_of(source, kind, loader), strict=True):
        assert found.dtype == torch.bfloat16
        error, magnitude = (found.double() - terms.sum(0)).abs(), terms.abs().sum(0)
        # float32's own roundings: of the terms and of the sums before they are rounded again.
        assert (error <= (growth(count) + 3 * count * 2.0**-24) * magnitude + count * 2.0**-133).all()
        used = max(used, float((error / (growth(count) * magnitude)).nan_to_num().max()))
    assert count > 8 or used > 0.1  # the bound is no idle one, as long as roundings have few others to cancel with


@pytest.mark.parametrize("count", [1, 6])
def test_saliency_is_rounded_once_more(model: nn.Module, count: int) -> None:
    loader = loader_of(count)
    source = source_of(model, loader, "saliency")
    scores, seen = compact_scores(source)
    for parameter, found, terms in zip(
        source.parameters.values(), scores.values(), terms_of(source, "grad", loader), strict=True
    ):
        theta = parameter.detach().double().abs()
        error = (found.double() - theta * terms.sum(0).abs() / seen).abs()
        bound = (growth(count + 1) + 1e-5) * theta * terms.abs().sum(0) / seen + 2.0**-133
        assert (error <= bound).all()


def test_the_ratio_is_that_of_two_such_sums(model: nn.Module) -> None:
    forget, retain = loader_of(3), loader_of(2)
    scores, _ = compact_scores(source_of(model, forget, "fisher_ratio", retain))
    exact = fg.score(model, forget, kind="fisher_ratio", retain_loader=retain)
    for name, found in scores.items():
        # Above: 3 roundings and 1 of the quotient; below: 2, and those in the mean of F_r that eps is.
        torch.testing.assert_close(found.float(), exact[name], rtol=(1 + growth(4)) / (1 - growth(2)) - 1, atol=0)


@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("kind", ["grad", "abs_grad", "fisher", "saliency", "fisher_ratio"])
def test_what_came_out_is_ranked_exactly(model: nn.Module, batches: Any, scope: Any, kind: Any) -> None:
    strategy = fg.TopK(0.1, score=kind, scope=scope)
    chosen = fg.select(model, batches, None, strategy, retain_loader=batches[1:], memory="compact")
    scores, seen = compact_scores(source_of(model, batches, kind, batches[1:]))
    expected = strategy.choose(dict(trainable(model)), scores)
    assert chosen == expected
    if expected.threshold is not None:
        divided = expected.threshold / (1 if kind in ("saliency", "fisher_ratio") else seen)
        assert chosen.threshold == pytest.approx(divided, rel=1e-6)


def test_most_of_the_dense_selection_is_found(model: nn.Module, batches: Any) -> None:
    for kind in ("grad", "abs_grad", "fisher"):
        dense, close = (
            fg.select(model, batches, None, fg.TopK(0.1, score=kind), memory=memory) for memory in ("dense", "compact")
        )
        assert (dense & close).k >= 0.95 * dense.k


def test_sums_that_bfloat16_holds_give_the_dense_selection(model: nn.Module) -> None:
    # One batch of 16: its gradients in bfloat16, times a power of two, are not rounded.
    half = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).bfloat16()
    loader = [(torch.randn(16, 1, 8, 8).bfloat16(), torch.randint(0, 10, (16,)))]
    for strategy in (fg.TopK(0.1), fg.TopK(0.1, score="abs_grad", scope="tensor"), fg.RandomTopK(0.1, seed=3)):
        dense, close = (fg.select(half, loader, None, strategy, memory=memory) for memory in ("dense", "compact"))
        assert close == dense
        assert close.threshold == dense.threshold


def test_parts_make_no_difference(model: nn.Module, batches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("fisher", "saliency", "fisher_ratio"):
        source = source_of(model, batches, kind, batches[1:])
        whole, _ = compact_scores(source)
        with monkeypatch.context() as patch:
            patch.setattr(compact, "CHUNK", 7)
            parts, _ = compact_scores(dataclasses.replace(source))
        assert all(a.equal(b) for a, b in zip(whole.values(), parts.values(), strict=True))
