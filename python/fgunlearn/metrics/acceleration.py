"""Acceleration over retraining: measured, and predicted by a cost model."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn

from fgunlearn.arguments import check_count
from fgunlearn.batches import Loader, LossFunction, checked_loss, cross_entropy, device_of, wait_for


def acceleration_ratio(retrain_seconds: float, unlearn_seconds: float) -> float:
    """AR = time to retrain / time to unlearn, measured in one run on one machine, in (0, inf). Retraining scores 1.

    Raises:
        ValueError: a time that is not positive and finite.
    """
    for argument, value in (("retrain_seconds", retrain_seconds), ("unlearn_seconds", unlearn_seconds)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{argument} must be positive and finite, got {value}")
    return retrain_seconds / unlearn_seconds


@dataclass(frozen=True)
class CostModel:
    """T = T_select + steps * (t_gradient + t_step), steps = E * N / B.

    Attributes:
        gradient_seconds: t_fwd + t_bwd of one batch.
        dense_step_seconds: t_step(n), one step of the dense optimizer.
        sparse_step_seconds: t_step(k), one step of the sparse optimizer.
    """

    gradient_seconds: float
    dense_step_seconds: float
    sparse_step_seconds: float

    def retrain_seconds(self, steps: int) -> float:
        """Predicted time of ``steps`` dense training steps."""
        return steps * (self.gradient_seconds + self.dense_step_seconds)

    def unlearn_seconds(self, select_seconds: float, steps: int, batch_growth: float = 1.0) -> float:
        """Predicted time of selecting and ``steps`` sparse steps.

        Args:
            select_seconds: T_select, measured or predicted: ``retrain_seconds`` of as many batches is a fair guess.
            steps: of the repair.
            batch_growth: samples per repair step over samples per training step: a forget term adds some.
        """
        return select_seconds + steps * (batch_growth * self.gradient_seconds + self.sparse_step_seconds)

    @staticmethod
    def error(predicted: float, measured: float) -> float:
        """Relative error of a prediction: predicted / measured - 1."""
        return predicted / measured - 1.0


def calibrate(
    model: nn.Module,
    loader: Loader,
    dense: torch.optim.Optimizer,
    sparse: torch.optim.Optimizer,
    loss_fn: LossFunction | None = None,
    batches: int = 8,
) -> CostModel:
    """Times a few batches: the medians of gradient, dense step and sparse step. The model is trained meanwhile.

    Args:
        model: a copy, since both optimizers step it.
        loader: batches of the size that training uses.
        dense: the training optimizer, over the model's parameters.
        sparse: the repair's.
        loss_fn: cross entropy by default.
        batches: how many to time, after one to warm up.

    Raises:
        TypeError: ``batches`` is no int.
        ValueError: ``batches`` < 1; a loader of fewer than two batches; a loss that is no scalar with a graph.
    """
    check_count(batches, "batches")
    gradient: list[float] = []
    dense_step: list[float] = []
    sparse_step: list[float] = []
    device = device_of(model)
    model.train()
    for batch in itertools.islice(loader, batches + 1):
        wait_for(device)
        start = time.perf_counter()
        model.zero_grad(set_to_none=True)
        checked_loss((loss_fn or cross_entropy)(model, batch)).backward()
        wait_for(device)
        gradient.append(time.perf_counter() - start)
        for optimizer, times in ((dense, dense_step), (sparse, sparse_step)):
            start = time.perf_counter()
            optimizer.step()
            wait_for(device)
            times.append(time.perf_counter() - start)
    if len(gradient) < 2:
        raise ValueError(f"loader must give at least 2 batches to time, got {len(gradient)}")
    return CostModel(*(statistics.median(times[1:]) for times in (gradient, dense_step, sparse_step)))
