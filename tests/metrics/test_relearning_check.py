"""Does the forgotten come back: with models whose answer is known."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fgunlearn.metrics import quantized, relearn_time, relearning_check

Batches = list[tuple[Tensor, Tensor]]

STEP = 2.0**-7


class Scores(nn.Module):
    """Logits are a row of a table, given by the sample: 127 steps are its largest entry, so that int8 has a grid."""

    def __init__(self, known: float, unknown: float = 0.0) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor([[127.0, known, unknown]]) * STEP)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.table)[:, 1:] * 20.0


FORGET: Batches = [(torch.ones(2, 1), torch.zeros(2, dtype=torch.long))]


def test_shallow_unlearning_comes_back_by_rounding_alone() -> None:
    source, shallow, deep = Scores(1.0, 0.0), Scores(0.51, 0.49 + 0.03), Scores(-40.0, 40.0)
    found = relearning_check(source, shallow, FORGET, deep, tolerance=0.05, lr=0.05, check_every=1)
    # 0.51 and 0.52 of a step: the wrong class ahead by a hundredth of a step. Rounded, both are 1, and so a tie is won.
    assert found.accuracy == {"source": 1.0, "unlearned": 0.0, "retrained": 0.0}
    assert found.accuracy_quantized == {"source": 1.0, "unlearned": 1.0, "retrained": 0.0}
    assert found.bits == 8


def test_a_change_within_half_a_step_needs_no_training_to_come_back() -> None:
    source, shallow, retrained = Scores(30.0), Scores(29.6, 0.4), Scores(-30.0)
    found = relearning_check(source, shallow, FORGET, retrained, tolerance=0.001, lr=0.001, check_every=1)
    assert found.plain.unlearned.steps > 0
    assert found.quantized.unlearned.steps == 0
    assert found.quantized.retrained is not None
    assert found.plain.retrained is not None
    assert found.quantized.retrained.steps == found.plain.retrained.steps > found.plain.unlearned.steps
    assert found.plain.target == found.quantized.target


def test_it_is_relearn_time_before_and_after_rounding() -> None:
    source, unlearned = Scores(33.3), Scores(-7.7)
    options = {"tolerance": 0.2, "lr": 0.01, "check_every": 1}
    found = relearning_check(source, unlearned, FORGET, bits=4, **options)
    assert found.plain == relearn_time(source, unlearned, FORGET, **options)  # type: ignore[arg-type]
    assert found.quantized == relearn_time(source, quantized(unlearned, 4), FORGET, **options)  # type: ignore[arg-type]
    assert found.plain.retrained is None
    assert found.accuracy.keys() == {"source", "unlearned"}


def test_the_models_stay_as_they_were(
    model: nn.Module,
    batches: Batches,
    state_of: Callable[[nn.Module], dict[str, Tensor]],
    assert_same: Callable[..., None],
) -> None:
    other = copy.deepcopy(model)
    before = state_of(model)
    relearning_check(model, other, batches, model, max_steps=2)
    assert_same(before, state_of(model))
    assert_same(before, state_of(other))


def test_bad_arguments_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="bits must be <= 8, got 16"):
        relearning_check(Scores(1.0), Scores(0.0), FORGET, bits=16)
    with pytest.raises(ValueError, match="tolerance must be >= 0, got -1"):
        relearning_check(Scores(1.0), Scores(0.0), FORGET, tolerance=-1)
