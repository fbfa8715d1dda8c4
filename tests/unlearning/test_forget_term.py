"""The forget term and its stop rule: what they look at, in which batches, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fgunlearn as fg
from fgunlearn.unlearning.stopping import StopRule
from small_mlp import Batches, cut, distance, gone, kept, loss_on, samples, source


def as_dicts(batches: Batches) -> list[dict[str, Tensor]]:
    return [{"points": x, "which": y} for x, y in batches]


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return loss_on(batch["points"], batch["which"])(model)


ASCENT = fg.Repair(epochs=2, lr=0.01, forget="ascent", weight=0.1)
EASY = [(x, source()(x).argmax(1)) for x, _ in kept()]  # it is never wrong on these
HARD = [(x, (y + 1) % 3) for x, y in kept()]


@pytest.mark.parametrize(("heldout", "over"), [(EASY, True), (HARD, False)])
def test_with_a_loss_of_ones_own_its_mean_on_the_heldout_data_ends_forgetting(heldout: Batches, over: bool) -> None:
    record = fg.unlearn(
        source(),
        as_dicts(gone()),
        as_dicts(kept()),
        loss_fn=loss,
        strategy=fg.TopK(1.0),
        repair=ASCENT,
        heldout_loader=as_dicts(heldout),
    ).record
    assert record.stopped_forgetting == over
    assert record.forget_steps == (len(gone()) if over else record.steps)  # looked at once per pass over D_u


def test_means_of_a_loss_of_ones_own_are_over_samples_in_eval_mode() -> None:
    model = nn.Sequential(source(), nn.Dropout(0.9)).train()
    one, other = samples(1, 4), samples(30, 5)
    with torch.no_grad():
        whole = loss_on(*(torch.cat(parts) for parts in zip(one, other, strict=True)))(model.eval())
        model.train()

    def known(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return batch["is"].mean() if "is" in batch else loss(model, batch)

    for level, reached in ((whole - 1e-9, True), (whole + 1e-9, False)):
        rule = StopRule([{"is": level.reshape(1)}], loss_fn=known)
        assert rule.reached(model, as_dicts([one, other])) == reached
    assert model.training


def test_a_heldout_loader_that_the_default_recipe_can_not_use_is_told() -> None:
    arguments: dict[str, Any] = {"loss_fn": loss, "heldout_loader": as_dicts(EASY)}
    with pytest.warns(
        UserWarning, match=r"heldout_loader is not read: with a loss_fn .*repair=Repair\(forget='ascent'"
    ):
        fg.methods.topk(source(), as_dicts(gone()), as_dicts(kept()), **arguments)
    record = fg.methods.topk(source(), as_dicts(gone()), as_dicts(kept()), repair=ASCENT, **arguments).record
    assert record.stopped_forgetting


@pytest.mark.parametrize("loss_fn", [None, lambda model, batch: loss_on(*batch)(model)])
@pytest.mark.parametrize(
    ("heldout", "error", "words"),
    [([], ValueError, "heldout_loader is empty"), (iter(EASY), TypeError, "heldout_loader must be an iterable that")],
)
def test_a_heldout_loader_is_checked_before_anything_changes(
    loss_fn: Any, heldout: Any, error: type[Exception], words: str
) -> None:
    model = source()
    with pytest.raises(error, match=words):
        fg.unlearn(
            model, gone(), kept(), loss_fn=loss_fn, strategy=fg.RandomK(0.5), repair=ASCENT, heldout_loader=heldout
        )
    assert distance(model, source()) == 0


class Watching(nn.Module):
    """Notes how many samples go through it in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = source()
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            self.sizes.append(len(x))
        return self.inner(x)


@pytest.mark.parametrize("forget", ["ascent", "unlikelihood", "random_label", "neighbour"])
def test_no_more_samples_than_in_a_batch_go_through_the_model_at_once(forget: Any) -> None:
    model = Watching()
    many = cut(*samples(40, 6))
    repair = fg.Repair(epochs=20, lr=0.01, forget=forget)
    fg.unlearn(model, many, kept(), strategy=fg.RandomK(1.0), repair=repair, heldout_loader=HARD)
    assert len(model.sizes) > 20  # it was looked at
    assert max(model.sizes) == len(many[0][1])


def test_the_rule_says_the_same_of_any_batches() -> None:
    x, y = samples(40, 6)
    for expected in (None, 0.0, 1.0):
        rule = StopRule(HARD, expected)
        assert len({rule.reached(source(), cut(x, y, size)) for size in (1, 7, 40)}) == 1


X, Y = samples(6, 1)
SOFT = torch.softmax(torch.randn(6, 3, dtype=torch.float64), 1)


@pytest.mark.parametrize(
    ("forget", "part", "error", "words"),
    [
        ("neighbour", [({"x": X}, Y)], TypeError, "so they must be tensors, got dict: give loss_fn"),
        ("neighbour", [(X, Y), (X[:, :2], Y)], ValueError, r"some have shape \(4,\) and some \(2,\)"),
        (
            "unlikelihood",
            [(X, SOFT)],
            TypeError,
            r"one integer class number .* float64 and shape \(6, 3\) from forget_",
        ),
        ("random_label", [(X, Y[:, None])], TypeError, r"got y of int64 and shape \(6, 1\) from forget_loader"),
        ("neighbour", [(X, Y > 0)], TypeError, r"got y of bool and shape \(6,\) from forget_loader"),
    ],
)
def test_forget_batches_that_the_term_is_not_defined_on_are_refused(
    forget: Any, part: Any, error: type[Exception], words: str
) -> None:
    model = source()
    with pytest.raises(error, match=words):
        fg.unlearn(model, part, kept(), strategy=fg.RandomK(0.5), repair=fg.Repair(forget=forget))
    assert distance(model, source()) == 0


@pytest.mark.parametrize(
    ("part", "error", "words"),
    [
        ([(X, Y + 3)], ValueError, "retain_loader has the label [345], but the model has 3 logits"),
        ([(X, SOFT)], TypeError, "float64 and shape .* from retain_loader"),
    ],
)
def test_remaining_data_that_can_not_vote_is_refused(part: Any, error: type[Exception], words: str) -> None:
    model = source()
    with pytest.raises(error, match=words):
        fg.unlearn(model, gone(), part, strategy=fg.RandomK(0.5), repair=fg.Repair(forget="neighbour"))
    assert distance(model, source()) == 0


def test_soft_labels_may_ascend() -> None:
    assert fg.unlearn(source(), [(X, SOFT)], kept(), strategy=fg.RandomK(0.5), repair=ASCENT).record.forget_steps == 8


@pytest.mark.parametrize(("epochs", "steps"), [(0, 0), (1e-9, 1), (0.1, 1), (0.3, 1), (0.5, 2), (2.5, 10)])
def test_a_repair_of_a_part_of_an_epoch_takes_at_least_one_step(epochs: float, steps: int) -> None:
    model = source()
    result = fg.unlearn(model, gone(), kept(), strategy=fg.RandomK(1.0), repair=fg.Repair(epochs=epochs, lr=0.1))
    assert result.record.steps == steps
    assert (distance(model, source()) > 0) == (steps > 0)
