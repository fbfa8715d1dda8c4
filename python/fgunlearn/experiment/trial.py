"""One task of the demo: train, retrain, unlearn by every recipe, measure."""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from fgunlearn import metrics
from fgunlearn.experiment import data, scenarios, training
from fgunlearn.experiment.data import Batches
from fgunlearn.experiment.recipes import Recipe, recipes
from fgunlearn.experiment.scenarios import Scenario
from fgunlearn.metrics.accuracy import logits_and_labels
from fgunlearn.metrics.forgetting import forgetting_of, retention_of
from fgunlearn.metrics.membership import losses_auc
from fgunlearn.optim import SparseOptimizer
from fgunlearn.perturb import matched_parameters
from fgunlearn.selection import RandomK
from fgunlearn.selection.selection import Selection
from fgunlearn.spdgan import SPDGAN
from fgunlearn.unlearning.unlearn import unlearn

_EVALUATION_BATCH = 64  # larger ones spend their time on fresh memory
_RETRAIN_SEED = 500  # added to the task's seed: the reference is another draw, not a copy
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
        scenario.retain, split.classes, task.training, task.seed + _RETRAIN_SEED
    )
    gan = SPDGAN(seed=task.seed, **task.gan).fit(
        source, scenario.forget.batches(_EVALUATION_BATCH), scenario.train.batches(_EVALUATION_BATCH)
    )
    measure = _Measure(scenario, source, retrained, gan)
    rows = [
        {"name": "source", **measure.of(source, source_seconds)},
        {"name": "retrained", **measure.of(retrained, retrain_seconds), "acceleration": 1.0},
    ]
    costs = _calibrated(source, scenario, task)
    for recipe in recipes(task.seed):
        rows.append(_run_recipe(recipe, scenario, source, retrain_seconds, costs, measure, task))
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


_PARTS = ("forget", "retain", "heldout", "test", "like_forget")


class _Seen:
    """What a model says about every part, looked at once: accuracies, losses, and who is judged a member."""

    def __init__(self, model: nn.Module, loaders: dict[str, Batches]) -> None:
        self.accuracy: dict[str, float] = {}
        self.losses: dict[str, Tensor] = {}
        for part, loader in loaders.items():
            logits, labels = logits_and_labels(model, loader)
            self.accuracy[part] = float((logits.argmax(1) == labels).double().mean())
            self.losses[part] = F.cross_entropy(logits, labels, reduction="none")
        judge = metrics.MembershipJudge.fit(self.losses["retain"], self.losses["heldout"])
        self.members = {part: judge.members(losses) for part, losses in self.losses.items()}


class _Measure:
    """Everything the table shows of a model."""

    def __init__(self, scenario: Scenario, source: nn.Module, retrained: nn.Module, gan: SPDGAN) -> None:
        self._loaders = {part: getattr(scenario, part).batches(_EVALUATION_BATCH) for part in _PARTS}
        self._source, self._retrained, self._gan = source, retrained, gan
        self._before = _Seen(source, self._loaders)

    def of(self, model: nn.Module, seconds: float) -> dict[str, Any]:
        before, after = self._before, _Seen(model, self._loaders)
        forgetting, retention = (
            rate(before.members[part], after.members[part], before.accuracy[part], after.accuracy[part])
            for part, rate in (("forget", forgetting_of), ("retain", retention_of))
        )
        degree = metrics.unlearning_degree(
            self._source, model, self._loaders["forget"], self._gan, self._loaders["test"]
        )
        assert degree.net is not None  # there is control data
        assert degree.net_loss is not None
        return {
            **{f"accuracy_{part}": after.accuracy[part] for part in ("forget", "retain", "test")},
            "forgetting_rate": forgetting.rate,
            "forgetting_rate_accuracy": forgetting.rate_accuracy,
            "memory_retention_rate": retention.rate,
            "memory_retention_rate_accuracy": retention.rate_accuracy,
            "membership_auc": losses_auc(after.losses["forget"], after.losses["like_forget"]),
            **dataclasses.asdict(metrics.similarity(model, self._retrained, self._loaders["test"])),
            "unlearning_degree": degree.net.value,
            "unlearning_degree_loss": degree.net_loss.value,
            "seconds": seconds,
        }


def _calibrated(source: nn.Module, scenario: Scenario, task: Task) -> metrics.CostModel:
    """Times of a gradient, a dense and a sparse step, on a copy of the model."""
    model = copy.deepcopy(source)
    dense = training.sgd(model, task.training)
    first = recipes(task.seed)[0]
    selection: Selection = RandomK(first.strategy.ratio, k=first.strategy.k).choose(
        {name: p.detach() for name, p in model.named_parameters()}, None
    )
    matched_parameters(model, selection)
    sparse = SparseOptimizer(training.sgd(model, task.training), selection)
    return metrics.calibrate(model, scenario.retain.batches(task.training.batch, drop_last=True), dense, sparse)


def _run_recipe(
    recipe: Recipe,
    scenario: Scenario,
    source: nn.Module,
    retrain_seconds: float,
    costs: metrics.CostModel,
    measure: _Measure,
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
        heldout_loader=scenario.heldout.batches(_EVALUATION_BATCH),
    )
    batches = -(-len(scenario.forget) // recipe.batch)
    scored = {None: 0, "fisher_ratio": 2}.get(recipe.strategy.score_kind, 1) * batches
    # The votes look at all samples once, forwards; a forward pass is about a third of a gradient.
    if "forget setup" in result.seconds:
        scored += round((len(scenario.forget) + len(scenario.retain)) / recipe.batch / 3)
    growth = result.record.samples / (result.record.steps * task.training.batch)
    predicted = costs.retrain_seconds(task.training.epochs * (len(scenario.retain) // task.training.batch))
    predicted /= costs.unlearn_seconds(scored * costs.gradient_seconds, result.record.steps, growth)
    measured = metrics.acceleration_ratio(retrain_seconds, result.total_seconds)
    return {
        "name": recipe.name,
        "strategy": recipe.strategy_name,
        "recipe": recipe.recipe_name,
        **measure.of(model, result.total_seconds),
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
    scenario: Scenario, classes: int, task: Task, retrain_seconds: float, measure: _Measure
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
        **measure.of(model, seconds),
        "acceleration": metrics.acceleration_ratio(retrain_seconds, seconds),
    }
