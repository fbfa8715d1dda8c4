"""ssd against its definition written out."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fgunlearn as fg
from small_mlp import Batches, assert_close, distance, gone, gradients, kept, loss_on, source


def importances(model: nn.Module, batches: Batches) -> list[Tensor]:
    """The mean of squared batch gradients, batches weighted by size."""
    n = sum(len(y) for _, y in batches)
    total = [torch.zeros_like(p) for p in model.parameters()]
    for x, y in batches:
        for sums, g in zip(total, gradients(model, loss_on(x, y)), strict=True):
            sums += len(y) / n * g**2
    return total


@pytest.mark.parametrize(("alpha", "lambda_"), [(1.2, 1.0), (0.5, 0.7), (0.0, 1.5)])
def test_ssd_dampens_what_matters_more_for_the_forget_data(alpha: float, lambda_: float) -> None:
    model, expected = source(), source()
    result = fg.methods.ssd(model, gone(), kept(), alpha=alpha, lambda_=lambda_)
    pairs = zip(importances(expected, gone()), importances(expected, gone() + kept()), strict=True)
    masks = []
    with torch.no_grad():
        for p, (f_u, f) in zip(expected.parameters(), pairs, strict=True):
            masks.append(f_u > alpha * f)
            p.mul_(torch.where(masks[-1], torch.clamp(lambda_ * f / f_u, max=1.0), torch.ones_like(p)))
    assert_close(model, expected)
    assert distance(model, source()) > 1e-3
    assert result.selection is not None
    assert all(a.equal(b) for a, b in zip(result.selection.masks(), masks, strict=True))
    assert result.record.samples == 12 + 20
    assert result.record.history == []
    assert set(result.seconds) == {"importance", "select", "dampen"}


def test_off_the_selection_no_bit_moves() -> None:
    model = source()
    result = fg.methods.ssd(model, gone(), kept(), alpha=1.2)
    assert result.selection is not None
    assert 0 < result.selection.k < result.selection.numel
    for p, q, mask in zip(model.parameters(), source().parameters(), result.selection.masks(), strict=True):
        assert torch.equal(p[~mask], q[~mask])


def test_half_precision_is_dampened_in_float32_and_rounded_once() -> None:
    model = source().to(torch.bfloat16)
    data = [[(x.bfloat16(), y) for x, y in part] for part in (gone(), kept())]
    before = [p.detach().clone() for p in model.parameters()]
    result = fg.methods.ssd(model, *data, alpha=1.1)
    assert sum(result.changed.values()) > 0
    for p, q in zip(model.parameters(), before, strict=True):
        assert p.dtype == torch.bfloat16
        assert bool((p.abs() <= q.abs()).all())


def test_an_alpha_that_nothing_exceeds_is_warned_of() -> None:
    model = source()
    # F holds 12 of 32 samples of F_u itself: no ratio can exceed 32 / 12.
    with pytest.warns(UserWarning, match=r"dampens nothing: .* alpha = 2.67 .* can exceed 2.67 here"):
        result = fg.methods.ssd(model, gone(), kept(), alpha=2.67)
    assert distance(model, source()) == 0
    assert result.selection is not None
    assert result.selection.k == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fg.methods.ssd(source(), gone(), kept(), alpha=1.2)


def test_the_model_is_in_eval_mode_meanwhile() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).train()
    data = [[(x.float(), y) for x, y in part] for part in (gone(), kept())]
    assert fg.methods.ssd(model, *data, alpha=1.0).buffers == []
    assert model[1].training


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"alpha": -1}, "alpha must be >= 0, got -1"),
        ({"lambda_": float("nan")}, "lambda_ must be >= 0, got nan"),
        ({"loss_fn": lambda model, batch: model(batch[0]).sum() * float("inf")}, "NaN or infinite"),
    ],
)
def test_bad_input_is_refused(changed: dict[str, Any], words: str) -> None:
    model = source()
    with pytest.raises(ValueError, match=words):
        fg.methods.ssd(model, gone(), kept(), **changed)
    assert distance(model, source()) == 0
