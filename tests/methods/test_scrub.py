"""scrub against its definition written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fgunlearn as fg
from small_mlp import Loss, assert_close, distance, gone, kept, loss_on, samples, sgd_by_hand, source

TEACHER = source()


def divergence(x: Tensor, temperature: float) -> Loss:
    """T^2 times the mean over the samples of KL(teacher || model)."""

    def of(model: nn.Module) -> Tensor:
        with torch.no_grad():
            p = torch.softmax(TEACHER(x) / temperature, 1)
        q = torch.softmax(model(x) / temperature, 1)
        return temperature**2 * (p * (p.log() - q.log())).sum(1).mean()

    return of


def test_scrub_disobeys_on_the_forget_data_for_a_while_and_obeys_on_the_rest() -> None:
    options: dict[str, Any] = {"epochs": 3, "max_epochs": 2, "alpha": 0.3, "gamma": 0.8, "temperature": 2.0}
    model, expected = source(), source()
    result = fg.methods.scrub(model, gone(), kept(), lr=0.05, momentum=0.9, weight_decay=0.01, **options)
    disobey = [lambda m, x=x: -divergence(x, 2.0)(m) for x, _ in gone()]
    obey = [lambda m, x=x, y=y: 0.3 * divergence(x, 2.0)(m) + 0.8 * loss_on(x, y)(m) for x, y in kept()]
    sgd_by_hand(expected, (disobey + obey) * 2 + obey, [0.05] * 16, weight_decay=0.01)
    assert_close(model, expected)
    assert [row["forget_loss"] is None for row in result.record.history] == [False, False, True]
    assert result.record.forget_steps == 4


def test_the_record_shows_the_cross_entropy_of_the_remaining_data() -> None:
    result = fg.methods.scrub(source(), gone(), kept()[:1], epochs=1, max_epochs=0, alpha=9.0, gamma=0.5)
    with torch.no_grad():
        assert result.record.history[0]["retain_loss"] == pytest.approx(float(loss_on(*kept()[0])(TEACHER)))


def test_a_loss_of_ones_own_takes_the_cross_entropys_place() -> None:
    model, expected = source(), source()

    def doubled(model: nn.Module, batch: Any) -> Tensor:
        return 2 * loss_on(*batch)(model)

    fg.methods.scrub(model, gone(), kept(), epochs=1, lr=0.05, max_epochs=1, gamma=0.5, loss_fn=doubled)
    fg.methods.scrub(expected, gone(), kept(), epochs=1, lr=0.05, max_epochs=1, gamma=1.0)
    assert_close(model, expected)


def test_the_teacher_is_in_eval_mode_and_the_student_in_train_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    x, y = (part.float() if part.is_floating_point() else part for part in samples(6, 0))
    with torch.no_grad():
        hidden = model[0](x)
        model[1].running_mean.copy_(hidden.mean(0) + 1)
        model[1].running_var.copy_(4 * hidden.var(0, correction=0))
    # Without a step worth mentioning the student is the teacher but for what batch norm goes by.
    apart = fg.methods.scrub(model, [(x, y)], [(x, y)], epochs=1, max_epochs=1, lr=1e-30)
    assert apart.record.history[0]["forget_loss"] < -1e-3
    with torch.no_grad():
        model[1].running_mean.copy_(hidden.mean(0))
        model[1].running_var.copy_(hidden.var(0, correction=0))
    alike = fg.methods.scrub(model, [(x, y)], [(x, y)], epochs=1, max_epochs=1, lr=1e-30)
    assert alike.record.history[0]["forget_loss"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"max_epochs": 4, "epochs": 3}, ValueError, "max_epochs must be at most epochs, 3, got 4"),
        ({"max_epochs": -1}, ValueError, "max_epochs must be >= 0, got -1"),
        ({"alpha": -0.1}, ValueError, "alpha must be >= 0, got -0.1"),
        ({"gamma": float("inf")}, ValueError, "gamma must be >= 0, got inf"),
        ({"temperature": 0}, ValueError, "temperature must be > 0, got 0"),
        ({"forget_loader": [{"x": 1}]}, TypeError, r"scrub needs \(x, y\) batches"),
    ],
)
def test_bad_options_are_refused(changed: dict[str, Any], error: type[Exception], words: str) -> None:
    model = source()
    arguments = {"forget_loader": gone(), "retain_loader": kept(), **changed}
    with pytest.raises(error, match=words):
        fg.methods.scrub(model, **arguments)
    assert distance(model, source()) == 0


def test_a_model_without_logits_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scrub needs a model that returns logits .* got \(6, 2, 3\)"):
        fg.methods.scrub(nn.Sequential(nn.Linear(4, 6, dtype=torch.float64), nn.Unflatten(1, (2, 3))), gone(), kept())
