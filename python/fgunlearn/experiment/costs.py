"""What retraining and unlearning should cost on this machine, from the times of a few batches."""

from __future__ import annotations

import copy

import torch
from torch import nn

from fgunlearn import metrics
from fgunlearn.experiment import training as trainings
from fgunlearn.experiment.scenarios import Scenario
from fgunlearn.experiment.training import Training
from fgunlearn.optim import SparseOptimizer
from fgunlearn.selection.selection import Selection
from fgunlearn.unlearning.result import Result

_FORWARD = 1.0 / 3.0  # of a gradient: backward costs about twice as much as forward


def calibrated(
    source: nn.Module, scenario: Scenario, training: Training, selection: Selection | None
) -> metrics.CostModel:
    """Times of a gradient, a dense step, and a step of this selection (of all coordinates if None), on a copy."""
    model = copy.deepcopy(source)
    dense = trainings.sgd(model, training)
    sparse: torch.optim.Optimizer = trainings.sgd(model, training)
    if selection is not None:
        sparse = SparseOptimizer(sparse, selection, model=model)
    return metrics.calibrate(model, scenario.retain.batches(training.batch, drop_last=True), dense, sparse)


def predicted_acceleration(
    costs: metrics.CostModel, result: Result, scenario: Scenario, training: Training, scored: float, batch: int
) -> float:
    """Retraining's predicted time over unlearning's.

    Args:
        costs: of one batch of training.
        result: of the unlearning: its steps, and the samples that they took.
        scenario: the data.
        training: how the models are trained.
        scored: passes over D_u, forward and backward, before the first step.
        batch: of the unlearning.
    """
    gradients = scored * -(-len(scenario.forget) // batch)
    if "forget setup" in result.seconds:  # the votes look at all samples once, forwards
        gradients += _FORWARD * (len(scenario.forget) + len(scenario.retain)) / batch
    if "recipe" in result.seconds:  # chosen by held-out data and as much of the remaining data
        gradients += _FORWARD * 2 * len(scenario.heldout) / batch
    steps, samples = result.record.steps, result.record.samples
    retraining = costs.retrain_seconds(training.epochs * (len(scenario.retain) // training.batch))
    step = costs.dense_step_seconds if result.selection is None else costs.sparse_step_seconds
    return retraining / ((gradients + samples / training.batch) * costs.gradient_seconds + steps * step)


def scored_passes(score: str | None) -> float:
    """Passes over as many samples as D_u has that a score takes."""
    return 0.0 if score is None else 2.0 if score == "fisher_ratio" else 1.0
