from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fgunlearn as fg
from fgunlearn.batches import cross_entropy
from fgunlearn.parameters import trainable
from fgunlearn.selection.scores import top_scores

Batches = list[tuple[Tensor, Tensor]]
KINDS = ("grad", "abs_grad", "fisher")


def by_score(model: nn.Module, batches: Any, strategy: Any) -> fg.Selection:
    scores = fg.score(model, batches, kind=strategy.score, retain_loader=batches)
    return strategy.choose(dict(trainable(model)), scores)


@pytest.mark.parametrize("kind", [*KINDS, "saliency", "fisher_ratio"])
@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("share", [None, 0.0, 0.4, 1.0])
def test_it_is_the_selection_by_the_score(
    model: nn.Module, batches: Batches, kind: Any, scope: Any, share: float | None
) -> None:
    strategy: Any = fg.TopK(0.1, score=kind, scope=scope)
    if share is not None:
        strategy = fg.RandomTopK(0.1, top_share=share, score=kind, scope=scope, seed=4)
    chosen, expected = (
        fg.select(model, batches, None, strategy, retain_loader=batches),
        by_score(model, batches, strategy),
    )
    assert chosen == expected
    assert chosen.threshold == expected.threshold
    assert chosen.seed == expected.seed
    assert chosen.k == round(0.1 * chosen.numel)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_nothing_and_everything_can_be_selected(model: nn.Module, batches: Batches, ratio: float) -> None:
    chosen = fg.select(model, batches, None, fg.TopK(ratio))
    assert chosen == by_score(model, batches, fg.TopK(ratio))
    assert chosen.threshold == by_score(model, batches, fg.TopK(ratio)).threshold


def test_the_threshold_of_a_mixed_model_is_a_score(batches: Batches) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(64, 16), nn.Linear(16, 10).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x.flatten(1)).double())  # type: ignore[no-any-return]

    mixed = Mixed()
    for k in (1, 10, 200, 500):
        chosen = fg.select(mixed, batches, None, fg.TopK(k=k))
        assert chosen == by_score(mixed, batches, fg.TopK(k=k))
        assert chosen.threshold == by_score(mixed, batches, fg.TopK(k=k)).threshold


class Unused(nn.Module):
    """A model whose second half the loss of the last batch does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.sometimes = nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.always(x.flatten(1))
        return out + self.sometimes(x.flatten(1)) if len(x) == 16 else out  # type: ignore[no-any-return]


def test_a_last_batch_that_reaches_not_every_parameter_is_fine(batches: Batches) -> None:
    model = Unused()
    assert fg.select(model, batches, None, fg.TopK(0.1)) == by_score(model, batches, fg.TopK(0.1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("each", [False, True])
def test_the_fused_pass_selects_what_the_separate_ones_do_bit_for_bit(
    model: nn.Module, batches: Batches, kind: str, each: bool
) -> None:
    parameters = trainable(model)
    k = [p.numel() // 3 for p in parameters.values()] if each else [77]
    answers = [
        top_scores(model, parameters, batches, cross_entropy, kind, k, each, False, fused=fused)
        for fused in (True, False)
    ]
    (fused, threshold, seen), (separate, other, same) = answers
    assert all(a.equal(b) for a, b in zip(fused, separate, strict=True))
    assert threshold.equal(other)
    assert seen == same == sum(len(y) for _, y in batches)


def test_an_empty_last_batch_one_batch_and_a_generator_will_do(model: nn.Module, batches: Batches) -> None:
    def generated() -> Iterator[tuple[Tensor, Tensor]]:
        yield from batches

    nothing = (torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64))
    expected = fg.select(model, batches, None, fg.TopK(0.1))
    assert fg.select(model, [*batches, nothing], None, fg.TopK(0.1)) == expected
    assert fg.select(model, [nothing, *batches], None, fg.TopK(0.1)) == expected
    assert fg.select(model, generated(), None, fg.TopK(0.1)) == expected
    assert fg.select(model, batches[:1], None, fg.TopK(0.1)) == by_score(model, batches[:1], fg.TopK(0.1))


def test_equal_scores_of_unequal_sums_go_to_the_larger_sum() -> None:
    # Neighbouring sums whose thirds are one float32: the order before the division decides.
    pairs = torch.arange(4, 40, dtype=torch.int32).add(0x3FE00000).view(torch.float32)
    at = int((pairs[:-1] / 3 == pairs[1:] / 3).nonzero()[0])
    sums = pairs[at : at + 2]
    layer = nn.Module()
    layer.register_parameter("p", nn.Parameter(torch.zeros(2)))

    def loss(module: nn.Module, batch: Tensor) -> Tensor:
        return (module.p * batch[0]).sum()

    batches = [sums.reshape(1, 2), torch.zeros(1, 2), torch.zeros(1, 2)]
    scores = fg.score(layer, batches, loss)
    assert scores["p"][0] == scores["p"][1]
    chosen = fg.select(layer, batches, loss, fg.TopK(k=1))
    assert chosen.indices[0].tolist() == [1]
    assert chosen.threshold == float(scores["p"][0])


def test_the_model_comes_back_as_it_was(model: nn.Module, batches: Batches, state_of: Any, assert_same: Any) -> None:
    model.train()
    before = state_of(model)
    fg.select(model, batches, None, fg.TopK(0.1))
    assert_same(before, state_of(model))


@pytest.mark.parametrize(
    ("loader", "error", "words"),
    [
        ([], ValueError, "loader is empty"),
        ([(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64))], ValueError, "loader is empty"),
        (["text"], TypeError, "a batch must hold a tensor"),
    ],
)
def test_bad_loaders_are_refused_and_nothing_changes(
    model: nn.Module, loader: Any, error: type[Exception], words: str, state_of: Any, assert_same: Any
) -> None:
    model.train()
    before = state_of(model)
    with pytest.raises(error, match=words):
        fg.select(model, loader, None, fg.TopK(0.1))
    assert_same(before, state_of(model))


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_a_score_that_is_not_finite_is_refused_with_tensor_and_count(scope: Any) -> None:
    layer = nn.Linear(2, 1, bias=False)

    def loss(module: nn.Module, x: Tensor) -> Tensor:
        return (module.weight * x).sum()

    with pytest.raises(ValueError, match="score of 'weight' has 1 NaN or infinite values of 2"):
        fg.select(layer, [torch.tensor([[1.0, torch.inf]])], loss, fg.TopK(k=1, scope=scope))
