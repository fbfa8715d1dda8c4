"""How fast forgotten data comes back, and what rounding the weights does to that: for several ways to unlearn.

``python -m fgunlearn.experiment.relearning --out FILE`` measures; scripts/relearning_page.py writes docs/audit.md.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import functools
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fgunlearn import machine, methods, metrics, ops
from fgunlearn.audit.measuring import RelearningOptions
from fgunlearn.experiment import scenarios
from fgunlearn.experiment.compare.entries import Entry
from fgunlearn.experiment.data import Batches
from fgunlearn.experiment.measure import EVALUATION_BATCH
from fgunlearn.experiment.requests import Request
from fgunlearn.experiment.results import merged, write_json
from fgunlearn.experiment.scenarios import Scenario
from fgunlearn.experiment.tasks import run_tasks
from fgunlearn.experiment.trained import TrainedModels
from fgunlearn.experiment.training import AGAIN_SEED, RETRAIN_SEED, Training
from fgunlearn.metrics import Outputs
from fgunlearn.metrics.quantization import quantization_steps

SCENARIOS = ("random", "class")
METHODS = ("random_topk", "finetune", "gradient_ascent")
BITS = (8, 4)
SEEDS = (100, 101, 102)
"""Seeds that nothing was tuned on."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What to run.

    Attributes:
        source: data, see :func:`fgunlearn.experiment.data.read`.
        scenarios: what is to be forgotten.
        methods: of :mod:`fgunlearn.methods`, with the options they are compared with elsewhere.
        seeds: each gives a split, a source and two retrained models of its own.
        bits: that weights are rounded to, one after the other.
        training: of source and retrained models.
        relearning: how the forgotten is trained back; its ``bits`` are not looked at.
        limit: use at most this many training images.
        jobs: worker processes of one thread each; 0 for one per core.
    """

    source: str = "digits"
    scenarios: Sequence[str] = SCENARIOS
    methods: Sequence[str] = METHODS
    seeds: Sequence[int] = SEEDS
    bits: Sequence[int] = BITS
    training: Training = field(default_factory=Training)
    relearning: RelearningOptions = field(default_factory=lambda: RelearningOptions(check_every=2))
    limit: int | None = None
    jobs: int = 1


@dataclass(frozen=True)
class Task:
    """One scenario and seed of a study; ``source`` is the decoded data, ``folder`` keeps models while it runs."""

    study: Study
    source: str
    scenario: str
    seed: int
    folder: Path


def run(study: Study, progress: bool = True) -> dict[str, Any]:
    """Runs all tasks and returns what the JSON file holds: machine, configuration, tasks, summary.

    Raises:
        ValueError: no scenario or seed; an unknown scenario, method or number of bits.
    """
    for name in ("scenarios", "seeds"):
        if not getattr(study, name):
            raise ValueError(f"{name} must hold at least one, got {getattr(study, name)!r}")
    for name in study.methods:
        methods.get(name)
    with tempfile.TemporaryDirectory(prefix="fgunlearn-relearning-") as folder:

        def tasks_on(source: str) -> list[Task]:
            pairs = [(scenario, seed) for seed in study.seeds for scenario in study.scenarios]
            return [Task(study, source, scenario, seed, Path(folder)) for scenario, seed in pairs]

        found, jobs = run_tasks(run_task, tasks_on, study.source, study.jobs, progress)
    found.sort(key=lambda task: (study.scenarios.index(task["scenario"]), study.seeds.index(task["seed"])))
    return {
        "fgunlearn": ops.BUILD_INFO["version"],
        "date": datetime.date.today().isoformat(),
        "machine": {**machine.describe(), "processes": jobs},
        "configuration": {
            **asdict(study),
            "source": study.source.partition(":")[0],  # where the data lies is nobody's business but its owner's
        },
        "tasks": found,
        "summary": {
            scenario: merged([task["models"] for task in found if task["scenario"] == scenario])
            for scenario in study.scenarios
        },
    }


def run_task(task: Task) -> dict[str, Any]:
    """Trains, unlearns and measures one scenario with one seed, in this process."""
    study = task.study
    scenario, classes = Request(task.scenario).scenario(task.source, task.seed, study.limit)
    trained = TrainedModels(task.folder)
    train = functools.partial(trained.train, classes=classes, training=study.training)
    source, _ = train(scenario.train, seed=task.seed)  # one for all scenarios with the same training data
    models = {
        "source": source,
        "retrained": train(scenario.retain, seed=task.seed + RETRAIN_SEED)[0],
        "retrained_again": train(scenario.retain, seed=task.seed + AGAIN_SEED)[0],
        **{name: _unlearned(source, scenario, name, task) for name in study.methods},
    }
    return {
        "scenario": task.scenario,
        "seed": task.seed,
        "forget": len(scenario.forget),
        "models": {
            name: {
                "float": _figures(source, model, scenario, study.relearning),
                **{
                    f"within_half_a_step_of_{bits}_bits": within_half_a_step(source, model, bits) for bits in study.bits
                },
                **{
                    f"int{bits}": _figures(source, metrics.quantized(model, bits), scenario, study.relearning)
                    for bits in study.bits
                },
            }
            for name, model in models.items()
        },
    }


@torch.no_grad()
def within_half_a_step(source: nn.Module, model: nn.Module, bits: int) -> float:
    """Of the weights that differ from the source's, the share that moved by less than half a step of its rounding.

    What rounding would undo, roughly. NaN where none differs.
    """
    steps, before, after = quantization_steps(source, bits), *(dict(m.named_parameters()) for m in (source, model))
    moved = [(after[name] - before[name]).abs() / step for name, step in steps.items()]
    shares = torch.cat([each[each > 0] for each in moved])
    return float((shares < 0.5).double().mean()) if len(shares) else math.nan


def _unlearned(source: nn.Module, scenario: Scenario, name: str, task: Task) -> nn.Module:
    model, training = copy.deepcopy(source), task.study.training
    methods.get(name)(
        model,
        scenario.forget.batches(training.batch),
        scenario.retain.batches(training.batch, seed=task.seed, drop_last=True),
        heldout_loader=scenario.heldout.batches(EVALUATION_BATCH),
        seed=task.seed,
        **Entry(name).arguments(training, task.seed),
    )
    return model


def _figures(source: nn.Module, model: nn.Module, scenario: Scenario, options: RelearningOptions) -> dict[str, float]:
    """Of one model, rounded or not: accuracies, loss on D_u, and steps until that is near the source's again."""
    forget: Batches = scenario.forget.batches(options.batch)
    seen = Outputs.of(model, forget)
    relearning = metrics.relearn_time(
        source,
        model,
        forget,
        tolerance=options.tolerance,
        optimizer=lambda parameters: torch.optim.SGD(parameters, options.lr, momentum=options.momentum),
        max_steps=options.max_steps,
        check_every=options.check_every,
    )
    return {
        "accuracy_forget": seen.accuracy,
        "loss_forget": float(seen.losses.mean()),
        "accuracy_test": metrics.accuracy(model, scenario.test.batches(EVALUATION_BATCH)),
        "steps": float(relearning.unlearned.steps),
        "reached": float(relearning.unlearned.reached),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``python -m fgunlearn.experiment.relearning``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", default="digits", help="digits, cifar10:PATH or tensors:FILE")
    parser.add_argument("--scenario", action="append", choices=scenarios.NAMES, help="may be repeated")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="number of seeds")
    parser.add_argument("--epochs", type=int, default=Training().epochs, help="of source and retrained models")
    parser.add_argument("--limit", type=int, help="use at most this many training images")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes, 0 for one per core")
    parser.add_argument("--out", type=Path, default=Path("relearning-results.json"), help="where to write the results")
    given = parser.parse_args(arguments)
    results = run(
        Study(
            source=given.data,
            scenarios=tuple(dict.fromkeys(given.scenario or SCENARIOS)),
            seeds=tuple(range(SEEDS[0], SEEDS[0] + given.seeds)),
            training=Training(epochs=given.epochs),
            limit=given.limit,
            jobs=given.jobs,
        )
    )
    write_json(results, given.out)
    print(f"all figures as JSON in {given.out}")


if __name__ == "__main__":
    main()
