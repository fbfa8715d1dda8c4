from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fgunlearn as fg

Batches = list[tuple[Tensor, Tensor]]


def by_hand(model: nn.Module, batches: Batches, kind: str, retain: Batches | None = None) -> dict[str, Tensor]:
    """The definitions of DESIGN section 1, one sum at a time, in float64."""
    model.eval()
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    total = sum(len(y) for _, y in batches)
    sums = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in parameters.items()}
    for x, y in batches:
        gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            g = gradient.double()
            g = {"grad": g, "saliency": g, "abs_grad": g.abs(), "fisher": g**2, "fisher_ratio": g**2}[kind]
            sums[name] += len(y) / total * g
    if kind == "saliency":
        sums = {name: s * parameters[name].detach().double() for name, s in sums.items()}
    if kind == "fisher_ratio":
        assert retain is not None
        kept = by_hand(model, retain, "fisher")
        mean = sum(float(s.sum()) for s in kept.values()) / sum(s.numel() for s in kept.values())
        sums = {name: s / (kept[name] + 1e-3 * mean) for name, s in sums.items()}
    return {name: s.abs() for name, s in sums.items()}


@pytest.mark.parametrize("kind", ["grad", "abs_grad", "fisher", "saliency", "fisher_ratio"])
def test_scores_are_what_their_definitions_say(model: nn.Module, batches: Batches, kind: Any) -> None:
    scores = fg.score(model, batches, kind=kind, retain_loader=batches[1:])
    expected = by_hand(model, batches, kind, batches[1:])
    assert scores.keys() == expected.keys()
    for name, wanted in expected.items():
        assert scores[name].dtype == torch.float32
        torch.testing.assert_close(scores[name].double(), wanted, rtol=1e-4, atol=1e-9)


def test_the_model_comes_back_as_it_was(model: nn.Module, batches: Batches, state_of: Any, assert_same: Any) -> None:
    model.train()
    model[1].eval()  # a submodule in another mode than the rest
    before = state_of(model)
    fg.score(model, batches)
    assert_same(before, state_of(model))


def test_a_gradient_in_progress_is_not_touched(model: nn.Module, batches: Batches) -> None:
    x, y = batches[0]
    F.cross_entropy(model(x), y).backward()
    before = model[5].weight.grad.clone()
    fg.score(model, batches)
    assert model[5].weight.grad.equal(before)


def test_any_batch_and_loss_will_do(batches: Batches) -> None:
    model = nn.Linear(64, 10)
    dicts = [{"pixels": x.flatten(1), "labels": y} for x, y in batches]

    def loss(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(module(batch["pixels"]), batch["labels"])

    assert fg.score(model, dicts, loss)["weight"].equal(
        fg.score(model, [(x.flatten(1), y) for x, y in batches])["weight"]
    )


def test_a_parameter_the_loss_does_not_reach_scores_zero(batches: Batches) -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(64, 10), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x.flatten(1))  # type: ignore[no-any-return]

    scores = fg.score(Unused(), batches)
    assert not scores["unused.weight"].any()
    assert scores["used.weight"].any()


def test_scores_are_the_same_bits_on_any_number_of_threads(
    model: nn.Module, batches: Batches, threads: Callable[[int], None]
) -> None:
    # One gradient, accumulated: torch's own kernels may round differently from thread count to thread count.
    gradient = [torch.randn(200_000), torch.randn(70_001)]
    answers = []
    for count in (1, 2, 8):
        threads(count)
        score = [torch.zeros_like(g) for g in gradient]
        fg.ops.score_accumulate_(score, gradient, "fisher", 0.3)
        answers.append(score)
    assert all(a.equal(b) for other in answers[1:] for a, b in zip(answers[0], other, strict=True))


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight.sqrt() * x).sum()  # an infinite derivative at 0


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"loader": []}, ValueError, "loader is empty"),
        ({"kind": "hessian"}, ValueError, "kind must be one of .*, got 'hessian'"),
        ({"kind": "fisher_ratio"}, ValueError, "needs retain_loader"),
        ({"kind": "fisher_ratio", "retain_loader": []}, ValueError, "retain_loader is empty"),
        ({"loss_fn": lambda m, b: m(b[0])}, ValueError, r"scalar, got shape \(16, 10\)"),
        ({"loss_fn": lambda m, b: m(b[0]).sum().detach()}, ValueError, "without a graph"),
        ({"loss_fn": lambda m, b: 1.0}, TypeError, "must return a tensor, got float"),
        ({"loader": [torch.zeros(3, 1, 8, 8)]}, TypeError, r"\(x, y\) batches"),
        ({"loader": ["text"]}, TypeError, "a batch must hold a tensor"),
        ({"model": nn.ReLU()}, ValueError, "no parameter that requires grad"),
        ({"model": "model"}, TypeError, "model must be a torch.nn.Module, got str"),
    ],
)
def test_bad_input_is_refused_and_nothing_changes(
    model: nn.Module,
    batches: Batches,
    arguments: dict[str, Any],
    error: type[Exception],
    words: str,
    state_of: Any,
    assert_same: Any,
) -> None:
    before = state_of(model)
    given = {"model": model, "loader": batches, **arguments}
    with pytest.raises(error, match=words):
        fg.score(**given)
    assert_same(before, state_of(model))


def test_a_score_that_is_not_finite_is_refused_with_tensor_and_count() -> None:
    with pytest.raises(ValueError, match="score of 'weight' has 1 NaN or infinite values of 2"):
        fg.score(Broken(), [torch.ones(2)], lambda module, x: module(x))
