from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import fgunlearn as fg
from fgunlearn import metrics


def test_the_ratio_is_retraining_over_unlearning() -> None:
    assert metrics.acceleration_ratio(30.0, 2.0) == 15.0


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_times_must_be_positive_and_finite(seconds: float) -> None:
    with pytest.raises(ValueError, match="unlearn_seconds must be positive"):
        metrics.acceleration_ratio(1.0, seconds)
    with pytest.raises(ValueError, match="retrain_seconds must be positive"):
        metrics.acceleration_ratio(seconds, 1.0)


def test_the_cost_model_is_its_formula() -> None:
    cost = metrics.CostModel(gradient_seconds=0.01, dense_step_seconds=0.002, sparse_step_seconds=0.001)
    assert cost.retrain_seconds(1000) == pytest.approx(1000 * 0.012)
    assert cost.unlearn_seconds(0.5, 70) == pytest.approx(0.5 + 70 * 0.011)
    assert cost.unlearn_seconds(0.5, 70, batch_growth=1.25) == pytest.approx(0.5 + 70 * (0.0125 + 0.001))
    assert metrics.CostModel.error(12.0, 10.0) == pytest.approx(0.2)


def test_calibration_times_every_part() -> None:
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    selection = fg.randomk([p.detach() for p in model.parameters()], ratio=0.1)
    dense = torch.optim.SGD(model.parameters(), lr=0.01)
    sparse = fg.SparseOptimizer(torch.optim.SGD(model.parameters(), lr=0.01), selection)
    data = [(torch.randn(4, 8), torch.randint(0, 3, (4,))) for _ in range(4)]
    cost = metrics.calibrate(model, data, dense, sparse)
    for seconds in (cost.gradient_seconds, cost.dense_step_seconds, cost.sparse_step_seconds):
        assert 0.0 < seconds < 1.0
    with pytest.raises(ValueError, match="at least 2 batches"):
        metrics.calibrate(model, data[:1], dense, sparse)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match="batches must be >= 1, got 0"):
        metrics.calibrate(model, data, dense, sparse, batches=0)
    with pytest.raises(TypeError, match=r"batches must be an int, got 2\.5"):
        metrics.calibrate(model, data, dense, sparse, batches=2.5)  # type: ignore[arg-type]
    assert all(p.equal(old) for p, old in zip(model.parameters(), before, strict=True))
