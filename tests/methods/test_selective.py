"""topk, randomk and random_topk: unlearn with the strategy, and a recipe for what is left open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fgunlearn as fg
from fgunlearn.methods.selective import FORGET_TERM, HELDOUT, PERTURB_REPAIR, recipe_for
from small_mlp import Batches, assert_close, cut, distance, gone, gradients, kept, loss_on, samples, sgd_by_hand, source


def test_topk_perturbs_and_repairs_the_largest_scores() -> None:
    model, expected = source(), source()
    repair = fg.Repair(epochs=0.5, lr=0.05, nesterov=False, weight_decay=0.01, schedule="constant")
    result = fg.methods.topk(model, gone(), kept(), k=20, score="grad", perturb=fg.Zero(), repair=repair)
    x, y = (torch.cat(parts) for parts in zip(*gone(), strict=True))
    slopes = gradients(expected, loss_on(x, y))
    threshold = torch.cat([g.abs().flatten() for g in slopes]).sort(descending=True).values[19]
    masks = [g.abs() >= threshold for g in slopes]
    with torch.no_grad():
        for p, mask in zip(expected.parameters(), masks, strict=True):
            p[mask] = 0.0
    sgd_by_hand(expected, [loss_on(x, y) for x, y in kept()[:2]], [0.05] * 2, weight_decay=0.01, masks=masks)
    assert_close(model, expected)
    assert result.selection is not None
    assert result.selection.k == 20


CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "topk": ({"score": "fisher", "scope": "tensor"}, fg.TopK(0.3, score="fisher", scope="tensor")),
    "randomk": ({"scope": "tensor"}, fg.RandomK(0.3, scope="tensor", seed=6)),
    "random_topk": (
        {"score": "grad", "top_share": 0.25, "scope": "tensor"},
        fg.RandomTopK(0.3, score="grad", top_share=0.25, scope="tensor", seed=6),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_is_unlearn_with_its_strategy(name: str) -> None:
    options, strategy = CASES[name]
    model, expected = source(), source()
    how: dict[str, Any] = {"perturb": fg.Shrink(0.3), "repair": fg.Repair(epochs=1, lr=0.05)}
    result = fg.methods.get(name)(model, gone(), kept(), ratio=0.3, seed=6, **options, **how)
    assert result.selection == fg.unlearn(expected, gone(), kept(), strategy=strategy, **how).selection
    assert_close(model, expected)


def test_the_default_is_the_recipe_with_a_forget_term() -> None:
    forget = cut(*samples(32, 5), size=16)
    heldout = cut(*samples(20, 8))
    model, expected = source(), source()
    result = fg.methods.topk(model, forget, kept(), heldout_loader=heldout, seed=2)
    fg.unlearn(
        expected,
        forget,
        kept(),
        strategy=fg.TopK(0.7, score="fisher_ratio"),
        perturb=fg.Shrink(0.5),
        repair=replace(FORGET_TERM.repair, forget_batch=2, seed=2),  # an eighth of a batch of D_u
        heldout_loader=heldout,
    )
    assert_close(model, expected)
    assert result.record.forget_steps > 0
    assert FORGET_TERM.repair.forget == "neighbour"


def test_what_a_model_memorised_shows_on_heldout_data_and_decides_the_recipe() -> None:
    x, y = samples(100, 8)
    wrong = (y + 1) % 3
    learned = cut(x, y), cut(*samples(100, 9))
    memorised = cut(x, y), cut(x, wrong)  # the model can't be right on both
    assert recipe_for(source(), *learned) is FORGET_TERM
    assert recipe_for(source(), *memorised) is HELDOUT
    assert recipe_for(source(), *reversed(memorised)) is FORGET_TERM
    assert recipe_for(source(), learned[0], None) is FORGET_TERM


def test_as_many_remaining_samples_are_asked_as_there_are_heldout_ones() -> None:
    def remaining() -> Iterator[tuple[Tensor, Tensor]]:
        yield from cut(*samples(12, 2))  # two batches of 6
        pytest.fail("one batch too many was read")

    class Remaining:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return remaining()

    recipe_for(source(), Remaining(), cut(*samples(7, 8)))


def test_a_model_that_memorised_gets_the_heldout_recipe() -> None:
    x, y = samples(20, 8)
    heldout = cut(x, (y + 1) % 3)
    forget = cut(*samples(32, 5), size=16)
    model, expected = source(), source()
    result = fg.methods.random_topk(model, forget, kept(), heldout_loader=heldout, seed=2)
    fg.unlearn(
        expected,
        forget,
        kept(),
        strategy=fg.RandomTopK(HELDOUT.ratio, score="fisher_ratio", seed=2),
        repair=replace(HELDOUT.repair, forget_batch=8, seed=2),  # half a batch of D_u
        heldout_loader=heldout,
    )
    assert_close(model, expected)
    assert "recipe" in result.seconds
    assert "perturb" not in result.seconds


@pytest.mark.parametrize("given", [{"repair": fg.Repair(epochs=1, lr=0.05)}, {"loss_fn": lambda m, b: m(b[0]).mean()}])
def test_where_the_repair_is_given_or_no_term_is_defined_nothing_is_chosen(given: dict[str, Any]) -> None:
    result = fg.methods.topk(source(), gone(), kept(), **given)
    assert "recipe" not in result.seconds


def test_with_a_loss_of_ones_own_the_default_is_the_papers_recipe() -> None:
    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return loss_on(batch["points"], batch["which"])(model)

    def as_dicts(batches: Batches) -> list[dict[str, Tensor]]:
        return [{"points": x, "which": y} for x, y in batches]

    model, expected = source(), source()
    result = fg.methods.randomk(model, as_dicts(gone()), as_dicts(kept()), loss_fn=loss, seed=3)
    fg.unlearn(
        expected, gone(), kept(), strategy=fg.RandomK(0.5, seed=3), perturb=fg.Shrink(0.0), repair=PERTURB_REPAIR.repair
    )
    assert_close(model, expected)
    assert result.record.forget_steps == 0


def test_none_is_no_perturbation() -> None:
    model = source()
    result = fg.methods.randomk(model, gone(), kept(), perturb=None, repair=fg.Repair(epochs=0))
    assert "perturb" not in result.seconds
    assert distance(model, source()) == 0


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"ratio": 1.5}, ValueError, r"ratio must be in \[0, 1\], got 1.5"),
        ({"ratio": 0.5, "k": 3}, ValueError, "exactly one of k and ratio"),
        ({"k": 10**6}, ValueError, "k must be at most"),
        ({"perturb": "noise"}, ValueError, "perturb must be one of 'default', got 'noise'"),
        ({"perturb": 0.5}, TypeError, "perturb must be a Gaussian, .* got 0.5"),
        ({"repair": 2}, TypeError, "repair must be a Repair, got 2"),
    ],
)
@pytest.mark.parametrize("name", CASES)
def test_bad_options_are_refused(name: str, changed: dict[str, Any], error: type[Exception], words: str) -> None:
    model = source()
    with pytest.raises(error, match=words):
        fg.methods.get(name)(model, gone(), kept(), **changed)
    assert distance(model, source()) == 0
