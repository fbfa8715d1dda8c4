"""fisher_forget against its definition written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import fgunlearn as fg
from fgunlearn.ops.perturb import GAUSSIAN_STREAM, draw_ref
from small_mlp import assert_close, distance, gradients, kept, loss_on, source


def test_noise_grows_as_importance_falls_up_to_a_bound() -> None:
    model, expected = source(), source()
    result = fg.methods.fisher_forget(model, [], kept(), strength=0.02, max_std=0.1, seed=9)
    fisher = [torch.zeros_like(p) for p in expected.parameters()]
    for x, y in kept():
        for f, g in zip(fisher, gradients(expected, loss_on(x, y)), strict=True):
            f += len(y) / 20 * g**2
    before = bounded = 0
    with torch.no_grad():
        for p, f in zip(expected.parameters(), fisher, strict=True):
            bound = 0.1 * p.square().mean().sqrt()
            std = torch.minimum(0.02 / f.sqrt().sqrt(), bound)
            bounded += int((std == bound).sum())
            z = draw_ref("normal", 9, GAUSSIAN_STREAM, torch.arange(p.numel()) + before).reshape(p.shape)
            p += std * z
            before += p.numel()
    assert 0 < bounded < before
    assert_close(model, expected)
    assert sum(result.changed.values()) == before
    assert result.record.history == []


def test_what_nothing_depends_on_gets_the_largest_noise_and_not_infinity() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))
    unused = nn.Parameter(torch.ones(10_000))
    model.register_parameter("unused", unused)
    fg.methods.fisher_forget(model, [], [(x.float(), y) for x, y in kept()], max_std=0.5)
    assert float((unused.detach() - 1).std()) == pytest.approx(0.5, rel=0.05)


def test_another_seed_is_another_noise() -> None:
    models = [source() for _ in range(2)]
    for seed, model in enumerate(models):
        fg.methods.fisher_forget(model, [], kept(), seed=seed)
    assert distance(*models) > 1e-4


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"strength": 0}, "strength must be > 0, got 0"),
        ({"max_std": -1.0}, "max_std must be > 0, got -1.0"),
        ({"loss_fn": lambda model, batch: model(batch[0]).sum() * float("inf")}, "NaN or infinite"),
    ],
)
def test_bad_input_is_refused(changed: dict[str, Any], words: str) -> None:
    model = source()
    with pytest.raises(ValueError, match=words):
        fg.methods.fisher_forget(model, [], kept(), **changed)
    assert distance(model, source()) == 0


def test_the_model_is_in_eval_mode_meanwhile() -> None:
    data = [(x.float(), y) for x, y in kept()]
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    other = copy.deepcopy(model).eval()
    model.train()
    model[1].eval()
    modes: list[bool] = []
    model[3].register_forward_pre_hook(lambda layer, inputs: modes.append(layer.training))
    statistics = copy.deepcopy(model[1].state_dict())
    result = fg.methods.fisher_forget(model, [], data, strength=0.02)
    assert result.buffers == []
    assert modes == [False] * len(data)
    assert [module.training for module in model] == [True, False, True, True]
    assert all(model[1].state_dict()[name].equal(statistics[name]) for name in ("running_mean", "running_var"))
    fg.methods.fisher_forget(other, [], data, strength=0.02)  # whatever the mode it comes in
    assert all(p.equal(q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
