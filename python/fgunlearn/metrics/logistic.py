"""Logistic regression of a few features per sample: the attack that learns what a member looks like."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class LogisticRegression:
    """log(P(member) / P(other)) = weight @ (features - mean) / std + bias, fitted by :meth:`fit`.

    ``mean``, ``std`` and ``weight`` are float64 (features,).
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: float

    @classmethod
    def fit(cls, members: Tensor, others: Tensor, penalty: float = 1.0) -> LogisticRegression:
        """Minimises the sum of the log losses, members and others weighing the same, + penalty/2 * |weight|^2.

        The features are standardised first. The weighted sum counts as many samples as there are, so ``penalty`` is
        the 1/C of other libraries with balanced classes. The problem is convex and small: L-BFGS in float64 solves it
        to the last digits that matter, and the same data give the same attack.

        Args:
            members: float (n, features), n >= 1.
            others: float (m, features), m >= 1.
            penalty: > 0, which keeps the weights finite where the two can be told apart without error.
        """
        members, others = members.detach().double().cpu(), others.detach().double().cpu()
        features = torch.cat([members, others])
        mean, std = features.mean(0), features.std(0, correction=0)
        std = torch.where(std > 0, std, torch.ones_like(std))  # a feature that is always the same says nothing
        scaled = (features - mean) / std
        n, m = len(members), len(others)
        target = torch.cat([torch.ones(n), torch.zeros(m)]).double()
        importance = torch.cat([torch.full((n,), 0.5 / n), torch.full((m,), 0.5 / m)]).double()
        parameters = torch.zeros(features.shape[1] + 1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [parameters], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            scores = scaled @ parameters[:-1] + parameters[-1]
            found = F.binary_cross_entropy_with_logits(scores, target, weight=importance, reduction="sum")
            found = found + 0.5 * penalty / (n + m) * parameters[:-1].square().sum()
            found.backward()
            return found

        with torch.enable_grad():
            optimizer.step(loss)  # type: ignore[no-untyped-call,arg-type]
        fitted = parameters.detach()
        return cls(mean, std, fitted[:-1].clone(), float(fitted[-1]))

    def scores(self, features: Tensor) -> Tensor:
        """The log odds of being a member, float64 (samples,), of features (samples, features)."""
        return ((features.detach().double().cpu() - self.mean) / self.std) @ self.weight + self.bias
