from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fgunlearn import metrics
from fgunlearn.metrics import Interval, unlearning_degree

Batches = list[tuple[Tensor, Tensor]]

RIGHT, WRONG = math.log(3.0), -math.log(3.0)
"""Logits of class 0 beside 0 for class 1: probability 3/4, and 1/4."""

LN3 = math.log(3.0)
"""By how much the loss of a wrong answer exceeds that of a right one."""


class Lookup(nn.Module):
    """Two logits for each whole number x, out of a table."""

    def __init__(self, *of_class_0: float) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor([[value, 0.0] for value in of_class_0]))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return self.table[x[:, 0].long()]


def numbers(*x: int) -> Batches:
    """One batch, all of class 0."""
    return [(torch.tensor(x, dtype=torch.float32)[:, None], torch.zeros(len(x), dtype=torch.long))]


def by(step: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x + step


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def random_data(seed: int, *sizes: int) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, 4, generator=generator), torch.randint(0, 3, (n,), generator=generator)) for n in sizes]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(2, 30))
def test_a_model_against_itself_is_exactly_0(seed: int, n: int) -> None:
    model = network(seed)
    found = unlearning_degree(
        model, copy.deepcopy(model), random_data(seed, n, 3), lambda x: x + 0.3, random_data(seed + 1, 5), resamples=50
    )
    zero = Interval(0.0, 0.0, 0.0)
    assert (found.acc, found.loss, found.net, found.net_loss) == (zero, zero, zero, zero)


def test_a_known_case() -> None:
    # The data are the numbers 0 to 3 and as control 4 and 5; the shift makes 10 to 13 of them, and 14 and 15.
    source = Lookup(*[RIGHT] * 10, RIGHT, RIGHT, RIGHT, WRONG, RIGHT, WRONG)
    unlearned = Lookup(*[WRONG] * 10, RIGHT, WRONG, WRONG, WRONG, WRONG, WRONG)
    found = unlearning_degree(source, unlearned, numbers(0, 1, 2, 3), by(10), numbers(4, 5))
    assert found.source_accuracy_unshifted == 1.0
    assert found.source_accuracy == 0.75
    assert found.unlearned_accuracy == 0.25
    assert found.acc.value == 0.5
    assert found.loss.value == pytest.approx(0.5 * LN3, abs=1e-6)
    assert found.source_accuracy_control == 0.5
    assert found.unlearned_accuracy_control == 0.0
    assert found.net is not None
    assert found.net_loss is not None
    assert found.net.value == 0.0
    assert found.net_loss.value == pytest.approx(0.0, abs=1e-6)


def test_net_cancels_a_model_that_is_worse_everywhere() -> None:
    source, worse = Lookup(*[RIGHT] * 40), Lookup(*[RIGHT, WRONG] * 20)
    found = unlearning_degree(source, worse, numbers(*range(20)), None, numbers(*range(20, 40)))
    assert found.acc.value == 0.5
    assert found.acc.excludes_zero
    assert found.net is not None
    assert found.net.value == 0.0
    assert not found.net.excludes_zero


def test_net_sees_a_model_that_is_worse_on_the_forget_data_alone() -> None:
    source, unlearned = Lookup(*[RIGHT] * 40), Lookup(*[WRONG] * 20, *[RIGHT] * 20)
    found = unlearning_degree(source, unlearned, numbers(*range(20)), None, numbers(*range(20, 40)))
    assert found.net == Interval(1.0, 1.0, 1.0)


def test_samples_count_not_batches() -> None:
    source, unlearned = Lookup(*[RIGHT] * 10), Lookup(*[RIGHT] * 9, WRONG)
    found = unlearning_degree(source, unlearned, numbers(*range(9)) + numbers(9), None)
    assert found.acc.value == pytest.approx(0.1)


def test_without_control_data_there_is_no_net() -> None:
    found = unlearning_degree(network(0), network(1), random_data(0, 8), None)
    assert found.net is None
    assert found.net_loss is None
    assert found.source_accuracy_control is None
    assert found.unlearned_accuracy_control is None


def test_the_shift_may_be_a_function_or_an_object_with_perturb() -> None:
    class Gan:
        def perturb(self, x: Tensor) -> Tensor:
            return x + 0.5

    a, b, data = network(0), network(1), random_data(0, 8, 4)
    of_function = unlearning_degree(a, b, data, lambda x: x + 0.5)
    assert unlearning_degree(a, b, data, Gan()) == of_function
    assert unlearning_degree(a, b, [(x + 0.5, y) for x, y in data], None).acc == of_function.acc


def test_a_batch_is_shifted_once_and_both_models_get_the_same() -> None:
    source, unlearned = Lookup(*[RIGHT] * 4), Lookup(*[RIGHT] * 4)
    shifted: list[Tensor] = []

    def noise(x: Tensor) -> Tensor:
        shifted.append(x + torch.rand_like(x))
        return shifted[-1]

    unlearning_degree(source, unlearned, numbers(0, 1) + numbers(2), noise, resamples=5)
    assert len(shifted) == 2
    assert all(a.equal(b) for a, b in zip(unlearned.seen, shifted, strict=True))
    assert all(any(x.equal(seen) for seen in source.seen) for x in shifted)


def test_a_model_or_a_shift_that_works_in_place_spoils_nothing_for_the_others() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network(0)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.mul_(2.0))  # type: ignore[no-any-return]

    data = random_data(0, 8)
    kept = data[0][0].clone()
    for shift in (None, lambda x: x.add_(1.0)):
        found = unlearning_degree(InPlace(), InPlace(), data, shift)
        assert found.loss == Interval(0.0, 0.0, 0.0)
        assert data[0][0].equal(kept)


def test_loaders_are_read_once_so_an_iterator_will_do() -> None:
    a, b, forget, control = network(0), network(1), random_data(0, 8, 4), random_data(1, 6)
    assert unlearning_degree(a, b, iter(forget), None, iter(control)) == unlearning_degree(a, b, forget, None, control)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_may_be_any_whole_numbers(dtype: torch.dtype) -> None:
    a, b, data = network(0), network(1), random_data(0, 8)
    assert unlearning_degree(a, b, [(x, y.to(dtype)) for x, y in data], None) == unlearning_degree(a, b, data, None)


def test_the_models_are_measured_in_eval_mode_and_come_back_in_their_modes(
    state_of: Callable[[nn.Module], dict[str, Tensor]], assert_same: Callable[..., None]
) -> None:
    a, b = network(0).train(), network(1).train()
    b[1].eval()
    before = state_of(a), state_of(b)
    first = unlearning_degree(a, b, random_data(0, 8), None)
    assert first == unlearning_degree(a, b, random_data(0, 8), None)  # no dropout
    assert_same(before[0], state_of(a))
    assert_same(before[1], state_of(b))

    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        unlearning_degree(a, b, random_data(0, 8), broken)
    assert_same(before[0], state_of(a))
    assert_same(before[1], state_of(b))


def test_one_seed_gives_one_answer_and_the_seed_moves_the_interval_alone() -> None:
    a, b, data = network(0), network(1), random_data(0, 30)
    first = unlearning_degree(a, b, data, None, random_data(1, 30), resamples=100, seed=3)
    assert first == unlearning_degree(a, b, data, None, random_data(1, 30), resamples=100, seed=3)
    other = unlearning_degree(a, b, data, None, random_data(1, 30), resamples=100, seed=4)
    assert other.loss.value == first.loss.value
    assert other.loss != first.loss


def test_forget_and_control_data_are_drawn_independently() -> None:
    source, unlearned = Lookup(*[RIGHT] * 20), Lookup(*[RIGHT, WRONG] * 10)
    data = numbers(*range(20))
    found = unlearning_degree(source, unlearned, data, None, data)
    assert found.net is not None
    assert found.net.value == 0.0
    assert found.net.high - found.net.low > found.acc.high - found.acc.low  # the same draws would cancel


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"gan": lambda x: x[:, :2]}, ValueError, r"gan must keep the shape of x, \(8, 4\), got \(8, 2\)"),
        ({"gan": lambda x: None}, TypeError, "gan must return a tensor, got NoneType"),
        ({"gan": "noise"}, TypeError, "gan must be an SPDGAN, a function of a batch or None, got str"),
        ({"forget_loader": []}, ValueError, "forget_loader is empty"),
        ({"control_loader": []}, ValueError, "control_loader is empty"),
        ({"forget_loader": random_data(0, 1)}, ValueError, "forget_loader must hold 2 samples or more, got 1"),
        ({"forget_loader": [torch.zeros(3, 4)]}, TypeError, r"\(x, y\) batches"),
        (
            {"forget_loader": [({"x": torch.zeros(3, 4)}, torch.zeros(3))]},
            TypeError,
            "forget_loader: x must be a tensor, got dict",
        ),
        (
            {"forget_loader": [(torch.zeros(3, 4), torch.zeros(3, 1, dtype=torch.long))]},
            ValueError,
            r"y must be of shape \(batch,\), got \(3, 1\)",
        ),
        ({"unlearned": nn.Unflatten(1, (2, 2))}, ValueError, r"logits of shape \(8, classes\).*got \(8, 2, 2\)"),
        ({"resamples": 0}, ValueError, "resamples must be >= 1, got 0"),
    ],
)
def test_bad_input_is_refused_by_name(changed: dict[str, Any], error: type[Exception], words: str) -> None:
    given = {"source": network(0), "unlearned": network(1), "forget_loader": random_data(0, 8), "gan": None}
    with pytest.raises(error, match=words):
        unlearning_degree(**{**given, **changed})


def test_accuracy_refuses_labels_that_a_comparison_would_broadcast() -> None:
    with pytest.raises(ValueError, match=r"y must be of shape \(batch,\), got \(8, 1\)"):
        metrics.accuracy(network(0), [(x, y[:, None]) for x, y in random_data(0, 8)])


def test_seeds_draws_labels_and_sizes_that_will_not_do_are_refused() -> None:
    model = nn.Linear(4, 3)
    some = [(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))]
    with pytest.raises(TypeError, match="resamples must be an int, got '9'"):
        unlearning_degree(model, model, some, None, resamples="9")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed must fit in 64 bits"):
        unlearning_degree(model, model, some, None, seed=2**63)
    for seed in (-(2**63), 2**63 - 1):
        assert unlearning_degree(model, model, some, None, some, seed=seed, resamples=3).acc.value == 0.0
    with pytest.raises(ValueError, match="control_loader must hold 2 samples or more, got 1"):
        unlearning_degree(model, model, some, None, [(some[0][0][:1], some[0][1][:1])])
    with pytest.raises(ValueError, match=r"y must be in \[0, 2\], got -100 to 2"):  # torch's cross entropy says 0
        unlearning_degree(model, model, [(some[0][0], torch.tensor([0, 1, 2, -100, 0]))], None)
    with pytest.raises(ValueError, match=r"y must be integers, got torch\.float32"):
        unlearning_degree(model, model, [(some[0][0], some[0][1] + 0.7)], None)
