"""What training on targets made of held-out data gives, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fgunlearn as fg
from fgunlearn.metrics import Outputs, losses_auc
from fgunlearn.unlearning.targets import Targets
from overfitted import CLASSES, GONE, KEPT, UNSEEN, batches, data, overfitted, seen


def unlearned(forget: str, mislabelled: bool) -> tuple[nn.Module, fg.Result]:
    model, gone = overfitted(mislabelled)
    model = copy.deepcopy(model)
    result = fg.unlearn(
        model,
        batches(*gone),
        batches(*data(KEPT, 4)),
        strategy=fg.RandomK(0.7),
        repair=fg.Repair(epochs=12, lr=0.05, schedule="linear", forget=forget, neighbours=30),  # type: ignore[arg-type]
        heldout_loader=batches(*data(UNSEEN, 6)),
    )
    return model, result


def test_a_forgotten_part_looks_like_data_never_seen_and_the_rest_is_kept() -> None:
    source, gone = overfitted(False)
    model, result = unlearned("heldout", False)
    unseen = seen(model, data(UNSEEN, 7))
    assert losses_auc(seen(source, gone).losses, seen(source, data(UNSEEN, 7)).losses) > 0.6
    assert abs(losses_auc(seen(model, gone).losses, unseen.losses) - 0.5) < 0.06
    assert abs(seen(model, gone).accuracy - unseen.accuracy) < 0.1
    assert seen(model, data(KEPT, 4)).accuracy > 0.97
    assert unseen.accuracy > seen(source, data(UNSEEN, 7)).accuracy - 0.05
    assert result.record.forget_steps == result.record.steps  # it holds samples back to the end


def test_wrong_labels_are_forgotten_and_the_right_ones_come_back() -> None:
    source, (x, wrong) = overfitted(True)
    model, _ = unlearned("heldout", True)
    right = (x, (wrong - 1) % CLASSES)
    assert seen(model, (x, wrong)).accuracy < 0.3
    assert seen(model, right).accuracy > seen(source, right).accuracy + 0.5
    assert seen(model, data(UNSEEN, 7)).accuracy > seen(source, data(UNSEEN, 7)).accuracy


def test_without_heldout_data_that_says_something_it_is_refused() -> None:
    model, gone = overfitted(False)
    before = copy.deepcopy(model.state_dict())
    x, y = data(KEPT, 4)
    repair = fg.Repair(epochs=1, forget="heldout")
    with pytest.raises(ValueError, match="forget='heldout' needs heldout_loader"):
        fg.unlearn(model, batches(*gone), batches(x, y), strategy=fg.RandomK(0.5), repair=repair)
    lacking = batches(x[y != 1], y[y != 1])
    only = batches(x[y == 1], y[y == 1])
    with pytest.raises(ValueError, match="heldout_loader has no sample of a class that the remaining data has"):
        fg.unlearn(
            model, batches(*gone), lacking, strategy=fg.RandomK(0.5), repair=repair, heldout_loader=only
        )  # fmt: skip
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# Of 30 steps of 20 remaining samples and 20 to forget: 10 passes over 60, or 30 over 20.
@pytest.mark.parametrize(
    ("forgotten", "unseen", "expected"),
    [
        (GONE, 20, 5),  # after 1, 3, 5, 7 and 9 passes
        (GONE, UNSEEN, 3),  # every 9 steps: 360 samples are as many as a look takes
        (20, UNSEEN, 3),  # every 8 steps
    ],
)
def test_targets_follow_the_model_every_other_pass_unless_that_takes_too_long(
    forgotten: int, unseen: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (x, y) = overfitted(False)
    looks: list[tuple[int, int | None]] = []
    follow = Targets.follow

    def watched(self: Targets, heldout: Outputs, forget: Outputs | None = None) -> None:
        looks.append((len(heldout), None if forget is None else len(forget)))
        follow(self, heldout, forget)

    monkeypatch.setattr(Targets, "follow", watched)
    repair = fg.Repair(epochs=2, forget="heldout", forget_batch=20, neighbours=30)
    fg.unlearn(
        copy.deepcopy(model),
        batches(x[:forgotten], y[:forgotten]),
        batches(*data(KEPT, 4)),
        strategy=fg.RandomK(0.5),
        repair=repair,
        heldout_loader=batches(*data(unseen, 6)),
    )
    assert looks == [(unseen, None)] + expected * [(unseen, forgotten)]


@pytest.mark.parametrize("forgotten", [1, 2])
@pytest.mark.parametrize("unseen", [1, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_a_few_samples_are_enough_and_labels_may_be_bytes(forgotten: int, unseen: int, dtype: torch.dtype) -> None:
    model = copy.deepcopy(overfitted(False)[0])
    parts = [data(n, seed) for n, seed in ((forgotten, 5), (60, 4), (unseen, 6))]
    gone, kept, heldout = (batches(x, y.to(dtype)) for x, y in parts)
    heldout.append((torch.zeros(0, 22), torch.zeros(0, dtype=dtype)))
    result = fg.unlearn(
        model,
        gone,
        kept,
        strategy=fg.RandomK(0.5),
        repair=fg.Repair(epochs=1, forget="heldout"),
        heldout_loader=heldout,
    )
    assert result.record.forget_steps == 3


def test_heldout_data_without_a_sample_is_refused_before_anything_changes() -> None:
    model, gone = overfitted(False)
    before = copy.deepcopy(model.state_dict())
    nothing = [(torch.zeros(0, 22), torch.zeros(0, dtype=torch.int64))]
    for loader, error, words in (
        (nothing, ValueError, "heldout_loader has no sample"),
        ([], ValueError, "heldout_loader is empty"),
        (iter(batches(*gone)), TypeError, "heldout_loader must be an iterable that can be read again"),
        ([(gone[0], gone[1] + 4)], ValueError, "heldout_loader has the label"),
        ([(gone[0], gone[1].float())], TypeError, "from heldout_loader"),
    ):
        with pytest.raises(error, match=words):
            fg.unlearn(
                model,
                batches(*gone),
                batches(*data(KEPT, 4)),
                strategy=fg.RandomK(0.5),
                repair=fg.Repair(epochs=1, forget="heldout"),
                heldout_loader=loader,  # type: ignore[arg-type]
            )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
