"""One task: a deletion request and a seed; the search, and what hindsight says about it."""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fgunlearn import methods, metrics
from fgunlearn.experiment.compare.options import recipe_arguments
from fgunlearn.experiment.measure import EVALUATION_BATCH
from fgunlearn.experiment.rank_correlation import spearman
from fgunlearn.experiment.requests import Request
from fgunlearn.experiment.scenarios import Scenario
from fgunlearn.experiment.trained import TrainedModels
from fgunlearn.experiment.training import AGAIN_SEED, RETRAIN_SEED, Training
from fgunlearn.experiment.tune.criterion import PARTS, Expected
from fgunlearn.experiment.tune.search import Configuration, Evaluation, Grid, coordinate_search
from fgunlearn.metrics import Outputs
from fgunlearn.unlearning.result import DivergedError


@dataclasses.dataclass(frozen=True)
class Task:
    """What to run. ``folder`` keeps trained models while the study runs; the rest is the study's.

    See :class:`fgunlearn.experiment.tune.study.Study`.
    """

    source: str
    request: Request
    seed: int
    method: str
    training: Training
    grid: Grid
    hindsight: bool
    folder: Path
    limit: int | None = None


def run(task: Task) -> dict[str, Any]:
    """Runs the task in this process; the result is ready for JSON. Times are wall-clock seconds of this process.

    Raises:
        DivergedError: every configuration did.
        ValueError: a class or rows that the data does not have; nothing to forget, or nothing left.
    """
    try:
        scenario, classes = task.request.scenario(task.source, task.seed, task.limit)
    except ValueError as error:
        raise ValueError(f"{task.request.title}: {error}") from error
    trained = TrainedModels(task.folder)
    source, _ = trained.train(scenario.train, classes, task.training, task.seed)
    start = time.perf_counter()
    repair = recipe_arguments({}, task.training, task.seed)["repair"]
    expected = Expected.of(
        source,
        *(getattr(scenario, part).batches(EVALUATION_BATCH) for part in PARTS),
        neighbours=repair.neighbours,
        layer=repair.neighbour_layer,
    )
    setup = time.perf_counter() - start
    hindsight = _Hindsight(task, scenario, classes, trained) if task.hindsight else None

    def evaluate(configuration: Configuration) -> tuple[float, dict[str, Any]]:
        start = time.perf_counter()
        model = copy.deepcopy(source)
        try:
            unlearned = _unlearn(model, scenario, configuration, task)
            seen = _seen(model, scenario, PARTS)
        except ValueError as error:  # it diverged, now or when it was looked at
            return float("inf"), {"failed": str(error), "seconds": time.perf_counter() - start}
        criterion = expected.judge(seen)
        found = {
            "parts": {k: v for k, v in dataclasses.asdict(criterion).items() if k != "points"},
            "unlearn_seconds": unlearned,
            "seconds": time.perf_counter() - start,
        }
        if hindsight is not None:
            found["gap"] = hindsight.gap(seen, model)
        return criterion.points, found

    chosen, evaluations = coordinate_search(task.grid, evaluate)
    if "failed" in chosen.found:
        raise DivergedError(f"all {len(evaluations)} configurations failed; the first: {chosen.found['failed']}")
    result = {
        "scenario": task.request.name,
        "seed": task.seed,
        "sizes": {part: len(getattr(scenario, part)) for part in ("forget", "retain", "heldout", "test")},
        "expected": {k: v for k, v in vars(expected).items() if k != "known"},
        "chosen": _row(chosen),
        "seconds": setup + sum(e.found["seconds"] for e in evaluations),
        "evaluations": [_row(e) for e in evaluations],
    }
    if hindsight is not None:
        result["hindsight"] = hindsight.verdict(task.grid.start, chosen, evaluations)
        result["hindsight"] |= hindsight.of_references(source, expected)
    return result


def _unlearn(model: nn.Module, scenario: Scenario, configuration: Configuration, task: Task) -> float:
    """Unlearns in place; the seconds it took."""
    given = {"ratio": configuration.ratio, "perturb": configuration.perturb}
    arguments = recipe_arguments(given, task.training, task.seed)
    arguments["repair"] = dataclasses.replace(arguments["repair"], epochs=configuration.epochs)
    batch = task.training.batch
    return (
        methods.get(task.method)(
            model,
            scenario.forget.batches(batch),
            scenario.retain.batches(batch, seed=task.seed, drop_last=True),
            heldout_loader=scenario.heldout.batches(EVALUATION_BATCH),
            seed=task.seed,
            **arguments,
        )
    ).total_seconds


def _seen(model: nn.Module, scenario: Scenario, parts: Sequence[str]) -> dict[str, Outputs]:
    return {part: Outputs.of(model, getattr(scenario, part).batches(EVALUATION_BATCH), part) for part in parts}


def _row(evaluation: Evaluation) -> dict[str, Any]:
    configuration = evaluation.configuration
    return {
        "ratio": configuration.ratio,
        "perturb": configuration.size,
        "epochs": configuration.epochs,
        "coordinate": evaluation.coordinate,
        "criterion": evaluation.criterion,
        **evaluation.found,
    }


class _Hindsight:
    """What the retrained model says, which the search knows nothing of."""

    def __init__(self, task: Task, scenario: Scenario, classes: int, trained: TrainedModels) -> None:
        self._scenario = scenario
        (self._retrained, self._seconds), (self._again, _) = (
            trained.train(scenario.retain, classes, task.training, task.seed + added)
            for added in (RETRAIN_SEED, AGAIN_SEED)
        )
        self._reference = _shares(_seen(self._retrained, scenario, (*PARTS, "test")))

    def gap(self, seen: dict[str, Outputs], model: nn.Module) -> dict[str, float]:
        """The average gap of a model and its parts, in points."""
        shares = _shares({**seen, **_seen(model, self._scenario, ("test",))})
        return dataclasses.asdict(metrics.average_gap_of(shares, self._reference))

    def verdict(self, start: Configuration, chosen: Evaluation, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
        """How near the search came to the best of what it tried, in points of the average gap.

        Three regrets, the gap minus the smallest: of what was chosen; of the recipe, had there been no search; and of a
        draw among what was tried. "ratio" is about K alone, the other two coordinates at the recipe's; "accuracy" about
        the gap without its fourth part, the mean of the three accuracies'.
        """
        done = [e for e in evaluations if "gap" in e.found]
        best = min(done, key=_gap)
        of_start = [_gap(e) for e in done if e.configuration == start]
        line = [e for e in done if e.coordinate == "ratio"]
        picked = min(line, key=lambda e: (e.criterion, e.configuration != start))
        best_ratio = min(line, key=_gap)
        criteria = [e.criterion for e in done]
        return {
            "gap": _gap(chosen),
            "best": _row(best),
            "regret": _gap(chosen) - _gap(best),
            "regret_of_recipe": of_start[0] - _gap(best) if of_start else None,
            "regret_of_draw": statistics.fmean(_gap(e) for e in done) - _gap(best),
            "ratio": {
                "chosen": picked.configuration.ratio,
                "gap": _gap(picked),
                "best": best_ratio.configuration.ratio,
                "best_gap": _gap(best_ratio),
                "regret": _gap(picked) - _gap(best_ratio),
            },
            "accuracy": {
                "gap": _accuracy_gap(chosen),
                "regret": _accuracy_gap(chosen) - min(map(_accuracy_gap, done)),
                "spearman": spearman(criteria, [_accuracy_gap(e) for e in done]),
            },
            "spearman": spearman(criteria, [_gap(e) for e in done]),
            "retrain_seconds": self._seconds,
        }

    def of_references(self, source: nn.Module, expected: Expected) -> dict[str, Any]:
        """Criterion and gap of the source, the retrained model, and one retrained with another seed."""
        found = {}
        for name, model in (("source", source), ("retrained", self._retrained), ("retrained_again", self._again)):
            seen = _seen(model, self._scenario, PARTS)
            found[name] = {"criterion": expected.judge(seen).points, "gap": self.gap(seen, model)["average"]}
        return {"references": found}


def _gap(evaluation: Evaluation) -> float:
    gap: float = evaluation.found["gap"]["average"]
    return gap


def _accuracy_gap(evaluation: Evaluation) -> float:
    gap = evaluation.found["gap"]
    return statistics.fmean(gap[part] for part in ("forget", "retain", "test"))


def _shares(seen: dict[str, Outputs]) -> dict[str, float]:
    accuracy = {part: seen[part].accuracy for part in ("forget", "retain", "test")}
    return {**accuracy, "mia": metrics.non_member_share(seen["forget"], seen["retain"], seen["heldout"])}
