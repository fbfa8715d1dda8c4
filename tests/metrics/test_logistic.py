from __future__ import annotations

import math

import pytest
import torch

from fgunlearn.metrics.logistic import LogisticRegression


def test_it_is_scikit_learns_with_balanced_classes() -> None:
    linear = pytest.importorskip("sklearn.linear_model", reason="needs scikit-learn")
    members, others = torch.randn(150, 3) + torch.tensor([0.5, 0.0, -1.0]), 2.0 * torch.randn(60, 3)
    found = LogisticRegression.fit(members, others)
    features = torch.cat([members, others]).double()
    scaled = ((features - features.mean(0)) / features.std(0, correction=0)).numpy()
    peer = linear.LogisticRegression(class_weight="balanced", tol=1e-10, max_iter=1000)
    peer.fit(scaled, [1] * 150 + [0] * 60)
    torch.testing.assert_close(found.weight, torch.from_numpy(peer.coef_[0]), atol=1e-5, rtol=1e-5)
    assert found.bias == pytest.approx(float(peer.intercept_[0]), abs=1e-5)
    torch.testing.assert_close(
        found.scores(features), torch.from_numpy(peer.decision_function(scaled)), atol=1e-4, rtol=1e-4
    )


def test_at_the_solution_the_gradient_of_the_stated_objective_is_0() -> None:
    members, others = torch.randn(40, 2).double() + 1.0, torch.randn(90, 2).double()
    found = LogisticRegression.fit(members, others, penalty=3.0)
    weight, bias = found.weight.clone().requires_grad_(), torch.tensor(found.bias).double().requires_grad_()
    n = 130

    def log_losses(features: torch.Tensor, sign: float) -> torch.Tensor:
        return torch.log1p(torch.exp(-sign * (((features - found.mean) / found.std) @ weight + bias)))

    objective = n / 2 * (log_losses(members, 1.0).mean() + log_losses(others, -1.0).mean())
    (objective + 1.5 * weight.square().sum()).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    assert float(weight.grad.abs().max()) < 1e-5
    assert float(bias.grad.abs()) < 1e-5


def test_features_that_part_the_two_without_error_get_finite_weights() -> None:
    found = LogisticRegression.fit(torch.ones(20, 1), torch.zeros(20, 1))
    assert math.isfinite(float(found.weight[0]))
    assert bool((found.scores(torch.tensor([[1.0], [0.0]])) * torch.tensor([1.0, -1.0]) > 1.0).all())


def test_a_feature_that_never_changes_says_nothing() -> None:
    members, others = torch.randn(50, 1) + 1.0, torch.randn(50, 1)
    constant = torch.full((50, 1), 7.0)
    found = LogisticRegression.fit(torch.cat([members, constant], 1), torch.cat([others, constant], 1))
    assert float(found.weight[1]) == pytest.approx(0.0, abs=1e-9)
    assert float(found.weight[0]) == pytest.approx(float(LogisticRegression.fit(members, others).weight[0]), abs=1e-6)
