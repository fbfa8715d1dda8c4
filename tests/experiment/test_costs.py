"""The prediction, against a sum done by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fgunlearn.experiment import costs, data, scenarios
from fgunlearn.experiment.data import Dataset
from fgunlearn.experiment.scenarios import Scenario
from fgunlearn.experiment.training import Training
from fgunlearn.metrics import CostModel
from fgunlearn.selection import randomk
from fgunlearn.unlearning.result import Record, Result

TIMES = CostModel(gradient_seconds=2.0, dense_step_seconds=1.0, sparse_step_seconds=0.25)
TRAINING = Training(epochs=10, batch=8)


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    images = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return scenarios.make("random", data.split(Dataset(images, torch.arange(200) % 2), 0), 0)


def test_the_data_is_as_the_sums_below_have_it(scenario: Scenario) -> None:
    assert (len(scenario.forget), len(scenario.retain)) == (14, 126)


@pytest.mark.parametrize(
    ("selected", "setup", "scored", "steps", "samples", "unlearning"),
    [
        (False, False, 0.0, 15, 120, 15 * (2.0 + 1.0)),  # fine-tuning: a dense step for each batch
        (True, False, 0.0, 15, 120, 15 * (2.0 + 0.25)),  # Random-k: nothing is scored
        (True, False, 2.0, 15, 120, 2 * 2 * 2.0 + 15 * (2.0 + 0.25)),  # two batches of D_u, twice
        (True, False, 1.0, 15, 160, 1 * 2 * 2.0 + 20 * 2.0 + 15 * 0.25),  # a forget term: more samples a step
        (True, True, 0.0, 15, 120, 140 / 8 / 3 * 2.0 + 15 * (2.0 + 0.25)),  # the votes look at all once
        (True, False, 0.0, 0, 140, 140 / 8 * 2.0),  # SSD: importances, and no step
    ],
)
def test_a_method_costs_its_gradients_and_its_steps(
    scenario: Scenario, selected: bool, setup: bool, scored: float, steps: int, samples: int, unlearning: float
) -> None:
    selection = randomk([torch.zeros(4)], k=2) if selected else None
    seconds = {"forget setup": 0.1} if setup else {}
    result = Result(nn.Linear(1, 1), selection, seconds, Record(steps=steps, samples=samples))
    found = costs.predicted_acceleration(TIMES, result, scenario, TRAINING, scored, batch=8)
    assert found == pytest.approx(10 * (126 // 8) * (2.0 + 1.0) / unlearning)


def test_scores_differ_in_what_they_read() -> None:
    assert [costs.scored_passes(score) for score in (None, "grad", "saliency", "fisher_ratio")] == [0.0, 1.0, 1.0, 2.0]


def test_times_are_taken_on_a_copy(scenario: Scenario) -> None:
    model = TRAINING.new_model(scenario.train, 2, 0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = costs.calibrated(model, scenario, TRAINING, None)
    assert min(found.gradient_seconds, found.dense_step_seconds, found.sparse_step_seconds) > 0
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
