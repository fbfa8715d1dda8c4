"""One task of the demo: train, retrain, unlearn by every recipe, measure."""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Any

from torch import nn

from fgunlearn import metrics
from fgunlearn.experiment import costs, data, scenarios, training
from fgunlearn.experiment.measure import EVALUATION_BATCH, Measure
from fgunlearn.experiment.recipes import Recipe, recipes
from fgunlearn.experiment.scenarios import Scenario
from fgunlearn.spdgan import SPDGAN
from fgunlearn.unlearning.unlearn import unlearn

_SHORT_SEED = 900


@dataclasses.dataclass(frozen=True)
class Task:
    """What to run: a scenario on a data set, for one seed; ``gan`` is the SPDGAN's arguments but for its seed."""

    source: str
    scenario: str
    seed: int
    training: training.Training
    limit: int | None = None
    gan: dict[str, Any] = dataclasses.field(default_factory=dict)


def run(task: Task) -> dict[str, Any]:
    """Runs the task in this process; the result is ready for JSON. Times are wall-clock seconds of this process."""
    split = data.load(task.source, task.seed, task.limit)
    scenario = scenarios.make(task.scenario, split, task.seed)
    source, source_seconds = training.train(scenario.train, split.classes, task.training, task.seed)
    retrained, retrain_seconds = training.train(
        scenario.retain, split.classes, task.training, task.seed + training.RETRAIN_SEED
    )
    gan = SPDGAN(seed=task.seed, **task.gan).fit(
        source, scenario.forget.batches(EVALUATION_BATCH), scenario.train.batches(EVALUATION_BATCH)
    )
    measure = Measure(scenario, source, retrained, gan)
    rows = [
        {"name": "source", **_figures(measure, source, source_seconds)},
        {"name": "retrained", **_figures(measure, retrained, retrain_seconds), "acceleration": 1.0},
    ]
    for recipe in recipes(task.seed):
        rows.append(_run_recipe(recipe, scenario, source, retrain_seconds, measure, task))
    rows.append(_short_retraining(scenario, split.classes, task, retrain_seconds, measure))
    return {
        "scenario": task.scenario,
        "seed": task.seed,
        "sizes": {part: len(getattr(scenario, part)) for part in ("forget", "retain", "heldout", "test")},
        "parameters": sum(p.numel() for p in source.parameters()),
        "spdgan": {
            "seconds": gan.fitted.seconds,
            "steps": len(gan.fitted.history.shift),
            "scale": gan.fitted.scale,
            "source_accuracy": gan.fitted.shifted_accuracy,
        },
        "rows": rows,
    }


def _figures(measure: Measure, model: nn.Module, seconds: float) -> dict[str, Any]:
    """What the table shows of a model."""
    found = measure.of(model)
    return {
        **{name: found[name] for name in _SHOWN},
        "membership_auc": found["mia"]["loss"]["auc"]["value"],
        **{name: found[name]["value"] for name in ("unlearning_degree", "unlearning_degree_loss")},
        "seconds": seconds,
    }


_SHOWN = (
    *(f"accuracy_{part}" for part in ("forget", "retain", "test")),
    *("forgetting_rate", "forgetting_rate_accuracy", "memory_retention_rate", "memory_retention_rate_accuracy"),
    *("js_divergence", "agreement", "relative_l2", "cosine", "cka"),
)


def _run_recipe(
    recipe: Recipe,
    scenario: Scenario,
    source: nn.Module,
    retrain_seconds: float,
    measure: Measure,
    task: Task,
) -> dict[str, Any]:
    model = copy.deepcopy(source)
    result = unlearn(
        model,
        scenario.forget.batches(recipe.batch),
        scenario.retain.batches(recipe.batch, seed=task.seed, drop_last=True),
        strategy=recipe.strategy,
        perturb=recipe.perturb,
        repair=dataclasses.replace(recipe.repair, seed=task.seed),
        heldout_loader=scenario.heldout.batches(EVALUATION_BATCH),
    )
    calibrated = costs.calibrated(source, scenario, task.training, result.selection)
    scored = costs.scored_passes(recipe.strategy.score_kind)
    predicted = costs.predicted_acceleration(calibrated, result, scenario, task.training, scored, recipe.batch)
    measured = metrics.acceleration_ratio(retrain_seconds, result.total_seconds)
    return {
        "name": recipe.name,
        "strategy": recipe.strategy_name,
        "recipe": recipe.recipe_name,
        **_figures(measure, model, result.total_seconds),
        "acceleration": measured,
        "predicted_acceleration": predicted,
        "prediction_error": metrics.CostModel.error(predicted, measured),
        "phases": result.seconds,
        "steps": result.record.steps,
        "forget_steps": result.record.forget_steps,
        "stopped_forgetting": result.record.stopped_forgetting,
        "selected": 0 if result.selection is None else result.selection.k,
        "changed": sum(result.changed.values()),
    }


def _short_retraining(
    scenario: Scenario, classes: int, task: Task, retrain_seconds: float, measure: Measure
) -> dict[str, Any]:
    """The control that unlearning has to face: training from scratch in as many epochs as the repair has."""
    epochs = max(1, round(recipes(task.seed)[0].repair.epochs))
    start = time.perf_counter()
    model, _ = training.train(
        scenario.retain, classes, dataclasses.replace(task.training, epochs=epochs), task.seed + _SHORT_SEED
    )
    seconds = time.perf_counter() - start
    return {
        "name": f"retrained, {epochs} epochs",
        "control": True,
        **_figures(measure, model, seconds),
        "acceleration": metrics.acceleration_ratio(retrain_seconds, seconds),
    }
