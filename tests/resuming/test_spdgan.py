"""A fit of an SPD-GAN that was interrupted goes on bit for bit."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fgunlearn as fg
from fgunlearn.spdgan import Fitting
from fgunlearn.spdgan.budget import Budget
from fgunlearn.spdgan.saving import Saving, Training
from interrupted import Killed, bits, drawn, killed_after, mlp, seed_all, shuffled

pytestmark = pytest.mark.usefixtures("_one_thread")

FITTING: dict[str, Any] = {"steps": 10, "batch": 8, "check_every": 4, "accuracy_budget": None}


def fit(path: Path | None, seed: int, every: int = 3, model: nn.Module | None = None, **changes: Any) -> fg.SPDGAN:
    """A fit of 10 steps to vectors, with what two loaders give in an order that nobody has seeded."""
    seed_all(seed)
    checkpoint = None if path is None else fg.Checkpoint(path, every)
    gan = fg.SPDGAN(width=4, blocks=1, fitting=Fitting(**{**FITTING, **changes}))
    loaders = (shuffled(20, 2), shuffled(40, 1))
    return gan.fit(mlp() if model is None else model, *loaders, checkpoint=checkpoint)


def outcome(gan: fg.SPDGAN) -> tuple[Any, ...]:
    fitted = dataclasses.replace(gan.fitted, seconds=0.0, generator=nn.Identity(), range=None)  # type: ignore[arg-type]
    numbers = (fitted.scale, fitted.accuracy, fitted.shifted_accuracy, fitted.history)
    return bits(gan.fitted.generator), numbers, drawn()


def interrupt(path: Path, step: int, seed: int, optimizers: int = 2, **changes: Any) -> None:
    with pytest.raises(Killed), killed_after(step, steps_of_optimizers=optimizers):
        fit(path, seed, **changes)


@pytest.mark.parametrize("every", [1, 3])
def test_wherever_it_is_interrupted_the_result_is_the_same(every: int, tmp_path: Path) -> None:
    path = tmp_path / "run"
    expected = outcome(fit(None, 5))
    assert outcome(fit(path, 5, every)) == expected
    assert list(tmp_path.iterdir()) == []
    for step in range(1, 11):
        interrupt(path, step, 5, every=every)
        assert list(tmp_path.iterdir()) == ([path] if step > every else [])
        assert outcome(fit(path, step if path.exists() else 5, every)) == expected, step
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "optimizers"),
    [
        ({"critic_weight": 0.0}, 1),
        ({"check_every": 1, "patience": 1, "steps": 40, "critic_ramp": 0.0}, 2),
        ({"check_every": 100, "average": 0.0}, 2),
    ],
)
def test_other_settings_go_on_too(changes: dict[str, Any], optimizers: int, tmp_path: Path) -> None:
    expected = outcome(fit(None, 5, **changes))
    interrupt(tmp_path / "run", 4, 5, optimizers, **changes)
    assert outcome(fit(tmp_path / "run", 8, **changes)) == expected


def killed_by_the_system(path: Path) -> None:
    torch.set_num_threads(1)
    with killed_after(8, steps_of_optimizers=2, by_signal=True):
        fit(path, 5)


def test_a_killed_process_goes_on_in_another_one(tmp_path: Path) -> None:
    path = tmp_path / "run"
    process = multiprocessing.get_context("spawn").Process(target=killed_by_the_system, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == [path]
    assert outcome(fit(path, 7)) == outcome(fit(None, 5))


def test_another_call_is_named_and_nothing_is_touched(tmp_path: Path) -> None:
    path, other = tmp_path / "run", mlp()
    with torch.no_grad():
        other[6].bias += 1.0
    interrupt(path, 5, 5)
    held = path.read_bytes()
    for changes, message in (
        ({"lr": 0.5}, r"fitting\.lr was 0\.001 and is 0\.5"),
        ({"model": other}, "the model is not what it was"),
    ):
        seed_all(3)
        expected = drawn()
        with pytest.raises(ValueError, match=message):
            fit(path, 3, **changes)  # type: ignore[arg-type]
        assert drawn() == expected
        assert path.read_bytes() == held
    with pytest.raises(ValueError, match=r"is a checkpoint of SPDGAN\.fit, not of unlearn"):
        fg.unlearn(
            mlp(), shuffled(20, 2), shuffled(40, 1), strategy=fg.TopK(0.5), checkpoint=fg.Checkpoint(path)
        )  # fmt: skip


def test_one_that_fails_for_good_leaves_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="diverged"):
        fit(tmp_path / "run", 5, lr=1e30, critic_weight=0.0)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_users_keeps_the_checkpoint(tmp_path: Path) -> None:
    path, model = tmp_path / "run", mlp()
    interrupt(path, 8, 5)
    held = path.read_bytes()

    def failing(*_: object) -> None:
        raise ValueError("the licence server is away")

    def arm(step: int) -> None:
        model.register_forward_pre_hook(failing)

    gan = fg.SPDGAN(width=4, blocks=1, fitting=Fitting(**FITTING))
    with pytest.raises(ValueError, match="licence server"):
        gan.fit(model, shuffled(20, 2), shuffled(40, 1), checkpoint=fg.Checkpoint(path, 3, arm))
    assert path.read_bytes() == held


def test_a_budget_that_cant_be_kept_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Budget, "_right", lambda self, perturb, scale: 1.0 if perturb is None else 0.0)
    with pytest.raises(ValueError, match=r"accuracy_budget=0.1 can't be kept"):
        fit(tmp_path / "run", 5, accuracy_budget=0.1)
    assert list(tmp_path.iterdir()) == []


def test_the_largest_shift_so_far_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It decides about the generators that are kept, where the critic presses the shift down again."""
    held: list[float] = []
    begin, after_step = Saving.begin, Saving.after_step
    changes = {"check_every": 2, "critic_ramp": 0.0}

    def saved(self: Saving, training: Training) -> None:
        after_step(self, training)
        held.append(training.best)

    monkeypatch.setattr(Saving, "after_step", saved)
    interrupt(tmp_path / "run", 7, 5, **changes)
    monkeypatch.setattr(Saving, "begin", lambda self, *of: (begin(self, *of), held.append(of[0].best)))
    interrupt(tmp_path / "run", 1, 5, **changes)
    assert held[-1] == held[5] > -math.inf  # after step 6
