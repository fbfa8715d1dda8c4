"""Batches of other forms and loaders out of the ordinary: what works, what is told, what is refused."""

from __future__ import annotations

import math
import warnings
from collections import UserDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fgunlearn as fg
from fgunlearn.unlearning.result import DivergedError
from method_calls import DESCENTS, NAMES, OURS, STEPS, call
from small_mlp import Batches, distance, gone, kept, loss_on, samples, source

ANY_BATCH = [name for name in NAMES if name not in ("random_label", "salun", "scrub")]


@pytest.mark.parametrize("name", ANY_BATCH)
def test_batches_of_any_form_work_through_the_loss(name: str) -> None:
    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return loss_on(batch["points"], batch["which"])(model)

    plain, dicts = source(), source()
    options = {} if name not in OURS else {"perturb": fg.Shrink(0.5), "ratio": 0.5}
    call(name, plain, **options)
    parts = [[{"points": x, "which": y} for x, y in part] for part in (gone(), kept())]
    call(name, dicts, *parts, loss_fn=loss, **options)
    assert distance(plain, dicts) < 1e-12


@dataclass
class Held:
    which: Tensor
    points: Tensor


class Opaque:
    """A batch that does not tell its size."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.both = (x, y)


FORMS: dict[str, tuple[Callable[[Tensor, Tensor], Any], Callable[[Any], tuple[Tensor, Tensor]]]] = {
    "dataclass": (lambda x, y: Held(y, x), lambda b: (b.points, b.which)),
    "user dict": (lambda x, y: UserDict(x=x, y=y), lambda b: (b["x"], b["y"])),
    "nested": (lambda x, y: [{"deep": [("a name", x)]}, {"y": y}], lambda b: (b[0]["deep"][0][1], b[1]["y"])),
    "lists": (
        lambda x, y: {"x": x.tolist(), "y": y.tolist()},
        lambda b: (torch.tensor(b["x"], dtype=torch.float64), torch.tensor(b["y"])),
    ),
    "opaque": (Opaque, lambda b: b.both),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [name for name in ANY_BATCH if name in (*DESCENTS, "randomk")])
def test_a_descent_takes_batches_of_every_form(name: str, form: str) -> None:
    pack, unpack = FORMS[form]
    model, plain = source(), source()
    forget, retain = ([pack(x, y) for x, y in part] for part in (gone(), kept()))
    options: dict[str, Any] = {"perturb": fg.Shrink(0.5), "ratio": 0.5} if name == "randomk" else {}
    result = call(name, model, forget, retain, loss_fn=lambda m, b: loss_on(*unpack(b))(m), **options)
    expected = call(name, plain, **options)
    assert distance(model, plain) < 1e-12
    assert result.record.steps == expected.record.steps
    assert result.record.samples == (0 if form == "opaque" else expected.record.samples)


def test_coordinates_are_not_scored_on_batches_that_do_not_tell_their_size() -> None:
    model = source()
    with pytest.raises(TypeError, match="a batch must hold a tensor whose first dimension is the batch, got Opaque"):
        fg.methods.topk(model, [Opaque(*gone()[0])], kept(), loss_fn=lambda m, b: m(b.both[0]).sum())
    assert distance(model, source()) == 0


EMPTY = tuple(part[:0] for part in samples(6, 0))


def with_gaps(batches: Batches) -> Batches:
    """With batches without samples in between, as a collate function leaves that throws samples out."""
    return [EMPTY, batches[0], EMPTY, *batches[1:], EMPTY]


@pytest.mark.parametrize("name", NAMES)
def test_batches_without_samples_change_nothing_and_take_no_step(name: str) -> None:
    model, expected = source(), source()
    options: dict[str, Any] = {"schedule": "constant"} if name in DESCENTS else {}
    options |= {"gamma": 0.0} if name == "l1_sparse" else {}  # the rest of a step does not depend on the time
    result = call(name, model, with_gaps(gone()), with_gaps(kept()), **options)
    plain = call(name, expected, **options)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert all(math.isfinite(row["retain_loss"] or 0.0) for row in result.record.history)
    if name in OURS:  # a repair takes as many steps as the loader's length says
        assert result.record.steps == 2 * len(with_gaps(kept()))
    else:
        assert distance(model, expected) < 1e-12
        assert result.record == plain.record


@pytest.mark.parametrize("name", DESCENTS)
def test_a_schedule_goes_on_where_a_batch_had_no_samples(name: str) -> None:
    rates = call(name, source(), with_gaps(gone()), with_gaps(kept()), schedule="linear").record.history
    last = call(name, source(), schedule="linear").record.history
    # The last place of a pass is an empty one: the step before it is not at the end of the schedule.
    assert rates[-1]["learning_rate"] > last[-1]["learning_rate"]


@pytest.mark.parametrize("name", STEPS)
def test_loaders_without_any_sample_are_refused(name: str, state_of: Any, assert_same: Any) -> None:
    model = source()
    before = state_of(model)
    with pytest.raises(ValueError, match=r"loader (has no sample|gave no sample|is empty)"):
        call(name, model, [EMPTY], [EMPTY])
    assert_same(before, state_of(model))


def test_a_forget_term_leaves_out_batches_without_samples() -> None:
    repair = fg.Repair(epochs=2, forget="unlikelihood", lr=0.05)
    models = [source(), source()]
    for model, forget in zip(models, ([EMPTY, *gone()], gone()), strict=True):
        record = fg.methods.randomk(model, forget, kept(), repair=repair, heldout_loader=gone()).record
        assert record.forget_steps > 0
    assert distance(*models) == 0
    with pytest.raises(ValueError, match="forget_loader has no sample: there is nothing to forget"):
        fg.methods.randomk(source(), [EMPTY], kept(), repair=repair)


def test_a_schedule_ends_with_the_batches_that_were_counted() -> None:
    class Lying(list):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 2

    model, expected = source(), source()
    fg.methods.finetune(model, [], Lying(kept()), epochs=1, schedule="linear")
    fg.methods.finetune(expected, [], kept()[:2], epochs=1, schedule="linear")
    assert distance(model, expected) == 0


class Once:
    """Batches on the first pass, and none on any other; it has a length."""

    def __init__(self, batches: Any) -> None:
        self._left, self._length = iter(batches), len(batches)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        return self._left


@pytest.mark.parametrize("name", ["topk", "randomk", "random_topk"])
def test_a_repair_refuses_a_used_up_loader_too(name: str) -> None:
    model = source()
    with pytest.raises(ValueError, match="retain_loader gave no batch when it was read again"):
        fg.methods.get(name)(model, gone(), Once(kept()), repair=fg.Repair(epochs=2))
    assert distance(model, source()) == 0


@pytest.mark.parametrize("name", ["finetune", "neggrad_plus", "scrub", "gradient_ascent"])
def test_a_loader_that_is_used_up_is_refused_instead_of_ending_early(name: str) -> None:
    model = source()
    with pytest.raises(ValueError, match="_loader gave no batch when it was read again"):
        call(name, model, Once(gone()), Once(kept()))
    assert distance(model, source()) == 0


class Short(list):  # type: ignore[type-arg]
    """Promises one batch more than it has."""

    def __len__(self) -> int:
        return super().__len__() + 1


@pytest.mark.parametrize("name", DESCENTS)
def test_fewer_batches_than_the_length_are_told_and_counted_as_they_came(name: str) -> None:
    parts = [Short(part) for part in (gone(), kept())]
    with pytest.warns(UserWarning, match=r"(retain|forget)_loader gave \d batches in a pass, but its length is \d"):
        result = call(name, source(), *parts, schedule="linear")
    plain = call(name, source(), schedule="linear")
    assert result.record.steps == plain.record.steps
    assert result.record.samples == plain.record.samples
    assert len(result.record.history) == 2


def test_a_length_that_holds_is_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in STEPS:
            call(name, source())
            call(name, source(), with_gaps(gone()), with_gaps(kept()))


@pytest.mark.parametrize("name", OURS)
def test_a_repair_takes_as_many_steps_as_the_length_says(name: str) -> None:
    assert call(name, source(), gone(), Short(kept())).record.steps == 2 * 5


@pytest.mark.parametrize("name", STEPS)
def test_a_loss_that_is_not_finite_from_the_start_is_not_blamed_on_the_learning_rate(name: str) -> None:
    model = source()
    options: dict[str, Any] = {"perturb": None} if name in OURS else {}
    x, y = samples(6, 3)
    if name in OURS or name == "salun":  # scored, which would find it first
        options["loss_fn"] = lambda m, b: m(b[0]).sum() * (math.nan if m.training else 1.0)
    bad = [(x * math.nan, y)]
    forget, retain = (gone(), kept()) if "loss_fn" in options else (bad, bad)
    with pytest.raises(DivergedError, match=r"at step 0; no update came before: look at"):
        call(name, model, forget, retain, **options)
    assert distance(model, source()) == 0
