"""random_label and salun against their definitions written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fgunlearn as fg
from fgunlearn.methods.wrong_labels import with_wrong_labels
from small_mlp import Batches, assert_close, distance, gone, gradients, kept, loss_on, samples, sgd_by_hand, source


def wrong(seed: int) -> Batches:
    """D_u with the labels that a seed gives: the next 1 or 2 classes, drawn batch by batch."""
    generator = torch.Generator().manual_seed(seed)
    return [(x, (y + torch.randint(1, 3, y.shape, generator=generator)) % 3) for x, y in gone()]


def test_wrong_labels_are_wrong_and_uniform_among_the_others() -> None:
    x, y = samples(6000, 7)
    [(same, relabelled)] = with_wrong_labels(source(), [(x, y)], 3, "random_label")
    assert same is x
    for label in range(3):
        counts = torch.bincount(relabelled[y == label], minlength=3)
        assert counts[label] == 0
        others = counts[counts > 0].double() / counts.sum()
        assert others.tolist() == pytest.approx([0.5, 0.5], abs=0.05)


def test_random_label_learns_wrong_labels_and_then_the_remaining_data() -> None:
    model, expected = source(), source()
    result = fg.methods.random_label(model, gone(), kept(), epochs=2, lr=0.05, weight_decay=0.01, seed=4)
    epoch = [loss_on(x, y) for x, y in [*wrong(4), *kept()]]
    sgd_by_hand(expected, epoch * 2, [0.05] * 12, weight_decay=0.01)
    assert_close(model, expected)
    assert result.record.steps == 12
    assert result.record.forget_steps == 4
    assert all(row["retain_loss"] > 0 and row["forget_loss"] > 0 for row in result.record.history)


def test_salun_moves_the_half_with_the_largest_gradient_of_the_forget_data() -> None:
    model, expected = source(), source()
    result = fg.methods.salun(model, gone(), kept(), epochs=2, lr=0.05, weight_decay=0.01, seed=4)
    x, y = (torch.cat(parts) for parts in zip(*gone(), strict=True))
    slopes = gradients(expected, loss_on(x, y))
    flat = torch.cat([g.abs().flatten() for g in slopes])
    threshold = flat.sort(descending=True).values[round(0.5 * len(flat)) - 1]
    masks = [g.abs() >= threshold for g in slopes]
    epoch = [loss_on(x, y) for x, y in [*wrong(4), *kept()]]
    sgd_by_hand(expected, epoch * 2, [0.05] * 12, weight_decay=0.01, masks=masks)
    assert_close(model, expected)
    assert result.selection is not None
    assert all(a.equal(b) for a, b in zip(result.selection.masks(), masks, strict=True))
    for p, q, mask in zip(model.parameters(), source().parameters(), masks, strict=True):
        assert torch.equal(p[~mask], q[~mask])


def test_a_loss_of_ones_own_sees_the_wrong_labels() -> None:
    seen: list[Tensor] = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        seen.append(batch[1])
        return loss_on(*batch)(model)

    fg.methods.random_label(source(), gone(), kept(), epochs=1, seed=4, loss_fn=loss)
    assert torch.equal(torch.cat(seen[:2]), torch.cat([y for _, y in wrong(4)]))
    assert torch.equal(torch.cat(seen[2:]), torch.cat([y for _, y in kept()]))


X, Y = samples(6, 1)


@pytest.mark.parametrize("name", ["random_label", "salun"])
@pytest.mark.parametrize(
    ("batch", "error", "words"),
    [
        ({"x": X, "y": Y}, TypeError, r"needs \(x, y\) batches .* got dict"),
        ((X, Y.double()), TypeError, r"one integer class number per sample in y, got float64 of shape \(6,\)"),
        ((X, Y[:, None]), TypeError, r"got int64 of shape \(6, 1\)"),
        ((X, Y + 2), ValueError, "needs labels from 0 to 2, .* got"),
        ((X, Y - 3), ValueError, "needs labels from 0 to 2, .* got -"),
    ],
)
def test_batches_without_class_numbers_are_refused(name: str, batch: Any, error: Any, words: str) -> None:
    model = source()

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return model(X).square().mean()

    with pytest.raises(error, match=words):
        fg.methods.get(name)(model, [batch], kept(), loss_fn=loss)
    assert distance(model, source()) == 0


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Linear(4, 1, dtype=torch.float64), "at least 2 logits"),
        (nn.Sequential(nn.Linear(4, 6, dtype=torch.float64), nn.Unflatten(1, (2, 3))), r"got \(1, 2, 3\)"),
    ],
)
def test_a_model_without_logits_to_choose_among_is_refused(model: nn.Module, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        with_wrong_labels(model, gone(), 0, "salun")
