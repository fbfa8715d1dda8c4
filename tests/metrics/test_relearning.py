"""One parameter, the logit of class 0 beside 0: every step of SGD can be computed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fgunlearn.metrics import Outputs, relearn_time

Batches = list[tuple[Tensor, Tensor]]


class Logit(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.value.expand(len(x)), torch.zeros(len(x))], 1)


FORGET: Batches = [(torch.zeros(2, 1), torch.zeros(2, dtype=torch.long)) for _ in range(3)]


def losses(start: float, lr: float, steps: int) -> list[float]:
    """Of class 0 before the first step and after every one: the gradient of log(1 + e^-v) is -1 / (1 + e^v)."""
    found, v = [], start
    for _ in range(steps + 1):
        found.append(math.log1p(math.exp(-v)))
        v += lr / (1.0 + math.exp(v))
    return found


def test_the_steps_are_those_until_the_loss_is_within_the_tolerance() -> None:
    found = relearn_time(Logit(2.0), Logit(-1.0), FORGET, tolerance=0.25, lr=0.5, check_every=1)
    target = 1.25 * math.log1p(math.exp(-2.0))
    by_hand = losses(-1.0, 0.5, 60)
    expected = next(step for step, loss in enumerate(by_hand) if loss <= target)
    assert found.target == pytest.approx(target, rel=1e-6)
    assert 5 < expected < 60
    assert (found.unlearned.steps, found.unlearned.reached) == (expected, True)
    assert found.unlearned.values == pytest.approx(by_hand[: expected + 1], rel=1e-4)
    assert found.retrained is None
    assert math.isnan(found.ratio)


def test_checked_after_every_pass_the_steps_are_rounded_up_to_one() -> None:
    each = relearn_time(Logit(2.0), Logit(-1.0), FORGET, tolerance=0.25, lr=0.5, check_every=1).unlearned.steps
    passes = relearn_time(Logit(2.0), Logit(-1.0), FORGET, tolerance=0.25, lr=0.5).unlearned
    assert passes.steps == 3 * math.ceil(each / 3)
    assert len(passes.values) == 1 + passes.steps // 3


def test_the_ratio_says_who_relearns_faster() -> None:
    def ratio(unlearned: float) -> float:
        return relearn_time(Logit(3.0), Logit(unlearned), FORGET, Logit(0.0), lr=0.2, check_every=1).ratio

    assert ratio(0.0) == 1.0
    assert 0.0 < ratio(1.5) < 0.9  # knowledge left behind
    assert ratio(-2.0) > 1.1  # forgotten too hard


def test_a_model_that_is_there_already_takes_no_step() -> None:
    found = relearn_time(Logit(2.0), Logit(2.0), FORGET, Logit(2.0))
    assert (found.unlearned.steps, found.unlearned.reached, len(found.unlearned.values)) == (0, True, 1)
    assert math.isnan(found.ratio)


@pytest.mark.parametrize("check_every", [None, 4])
def test_the_bound_holds_and_says_so(check_every: int | None) -> None:
    found = relearn_time(Logit(9.0), Logit(0.0), FORGET, Logit(1.0), lr=1e-3, max_steps=7, check_every=check_every)
    assert (found.unlearned.steps, found.unlearned.reached) == (7, False)
    assert found.unlearned.values[-1] == pytest.approx(losses(0.0, 1e-3, 7)[-1], rel=1e-5)
    assert math.isnan(found.ratio)


def test_accuracy_can_be_the_measure() -> None:
    found = relearn_time(Logit(1.0), Logit(-0.7), FORGET, measure="accuracy", tolerance=0.05, lr=0.5, check_every=1)
    by_hand = losses(-0.7, 0.5, 20)
    expected = next(step for step, loss in enumerate(by_hand) if loss < math.log(2.0))
    assert found.target == pytest.approx(0.95)
    assert found.unlearned.steps == expected
    assert found.unlearned.values == (0.0,) * expected + (1.0,)


def test_the_optimizer_and_the_loss_can_be_given() -> None:
    plain = relearn_time(Logit(2.0), Logit(-1.0), FORGET, lr=0.1, check_every=1).unlearned.steps
    heavy = relearn_time(
        Logit(2.0),
        Logit(-1.0),
        FORGET,
        check_every=1,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    ).unlearned.steps
    doubled = relearn_time(
        Logit(2.0),
        Logit(-1.0),
        FORGET,
        lr=0.05,
        check_every=1,
        loss_fn=lambda model, batch: 2.0 * nn.functional.cross_entropy(model(batch[0]), batch[1]),
    ).unlearned.steps
    assert 0 < heavy < plain
    assert doubled == plain


def test_the_models_stay_as_they_were(
    model: nn.Module,
    batches: Batches,
    state_of: Callable[[nn.Module], dict[str, Tensor]],
    assert_same: Callable[..., None],
) -> None:
    source, retrained = (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)) for _ in range(2))
    optimizer = torch.optim.Adam(source.parameters(), lr=0.01)
    for x, y in 20 * batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(source(x), y).backward()
        optimizer.step()
    before = [state_of(m) for m in (source, model, retrained)]
    found = relearn_time(source, model, batches, retrained, max_steps=5)
    assert found.retrained is not None
    assert found.unlearned.steps == found.retrained.steps == 5
    assert found.unlearned.values[0] == pytest.approx(float(Outputs.of(model, batches).losses.mean()))
    assert found.unlearned.values[0] != found.unlearned.values[-1]
    for was, now in zip(before, (source, model, retrained), strict=True):
        assert_same(was, state_of(now))


def test_bad_arguments_are_refused() -> None:
    a, b = Logit(1.0), Logit(0.0)
    with pytest.raises(ValueError, match="forget_loader: the loader is empty"):
        relearn_time(a, b, [])
    with pytest.raises(ValueError, match="give a loader or a list, not an iterator"):
        relearn_time(a, b, iter(FORGET))
    with pytest.raises(ValueError, match="measure must be one of 'loss', 'accuracy', got 'auc'"):
        relearn_time(a, b, FORGET, measure="auc")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tolerance must be >= 0, got -1"):
        relearn_time(a, b, FORGET, tolerance=-1)
    with pytest.raises(ValueError, match="tolerance must be >= 0, got nan"):
        relearn_time(a, b, FORGET, tolerance=math.nan)
    with pytest.raises(ValueError, match="max_steps must be >= 1, got 0"):
        relearn_time(a, b, FORGET, max_steps=0)
    with pytest.raises(ValueError, match="check_every must be >= 1, got 0"):
        relearn_time(a, b, FORGET, check_every=0)
    with pytest.raises(ValueError, match="lr must be > 0, got 0"):
        relearn_time(a, b, FORGET, lr=0)
    with pytest.raises(ValueError, match=r"forget_loader: logits hold .* diverged"):
        relearn_time(a, Logit(math.nan), FORGET)


def test_copies_learn_in_train_mode_and_are_measured_in_eval_mode() -> None:
    modes: list[bool] = []

    class Noting(Logit):
        def forward(self, x: Tensor) -> Tensor:
            modes.append(self.training)
            return super().forward(x)

    unlearned = Noting(-9.0).eval()
    unlearned.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    relearn_time(Logit(2.0), unlearned, FORGET, max_steps=2, check_every=1)
    eval_pass, step = [False] * 6, [True] * 2
    assert modes == eval_pass + step + eval_pass + step + eval_pass


@pytest.mark.parametrize("argument", ["max_steps", "check_every"])
def test_counts_are_whole_numbers(argument: str) -> None:
    with pytest.raises(TypeError, match=f"{argument} must be an int, got 2.5"):
        relearn_time(Logit(9.0), Logit(0.0), FORGET, **{argument: 2.5})


@pytest.mark.parametrize("lr", [math.inf, math.nan, 0.0])
def test_a_learning_rate_that_is_none_is_refused(lr: float) -> None:
    with pytest.raises(ValueError, match=f"lr must be > 0, got {lr}"):
        relearn_time(Logit(2.0), Logit(-1.0), FORGET, lr=lr)
    with pytest.raises(TypeError, match="lr must be a number, got 'fast'"):
        relearn_time(Logit(2.0), Logit(-1.0), FORGET, lr="fast")  # type: ignore[arg-type]
