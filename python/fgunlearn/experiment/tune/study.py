"""The search over several deletion requests and seeds, and what comes out."""

from __future__ import annotations

import datetime
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fgunlearn import machine, ops
from fgunlearn.experiment.rank_correlation import check_scipy
from fgunlearn.experiment.requests import Request
from fgunlearn.experiment.results import mean_and_deviation, merged
from fgunlearn.experiment.tasks import run_tasks
from fgunlearn.experiment.training import Training
from fgunlearn.experiment.tune import trial
from fgunlearn.experiment.tune.search import Configuration, Grid

DEFAULT_SEEDS = (100, 101, 102)
"""Seeds that nothing was tuned on."""

FORGET_RATIOS = (0.01, 0.05, 0.1, 0.2, 0.5)
METHODS = ("topk", "randomk", "random_topk")


@dataclass(frozen=True, kw_only=True)
class Study:
    """What to run.

    Attributes:
        source: data, see :func:`fgunlearn.experiment.data.read`.
        requests: what is to be forgotten, one at a time.
        method: of this package: which coordinates a K means.
        seeds: each gives a split and a source model of its own.
        training: of source and retrained models.
        grid: where to look.
        hindsight: train a retrained model as well, two for the spread, and measure how near the search came.
        limit: use at most this many training images.
        jobs: worker processes of one thread each; 0 for one per core.
    """

    source: str = "digits"
    requests: Sequence[Request] = tuple(Request("random", share) for share in FORGET_RATIOS)
    method: str = "topk"
    seeds: Sequence[int] = DEFAULT_SEEDS
    training: Training = field(default_factory=Training)
    grid: Grid = field(default_factory=Grid)
    hindsight: bool = True
    limit: int | None = None
    jobs: int = 0


def run(study: Study, progress: bool = True) -> dict[str, Any]:
    """Runs all tasks and returns what the JSON file holds: machine, configuration, tasks, summary.

    Raises:
        ImportError: scipy is missing and hindsight is wanted, before anything is trained.
        ValueError: no request or no seed; an unknown method; a class or rows that the data does not have.
        DivergedError: every configuration did.
    """
    for name, given in (("requests", study.requests), ("seeds", study.seeds)):
        if not given:
            raise ValueError(f"{name} must hold at least one, got {given!r}")
    if study.method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {study.method!r}")
    if study.hindsight:
        check_scipy()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fgunlearn-tune-") as folder:

        def tasks_on(source: str) -> list[trial.Task]:
            return [
                trial.Task(
                    source=source,
                    request=request,
                    seed=seed,
                    method=study.method,
                    training=study.training,
                    grid=study.grid,
                    hindsight=study.hindsight,
                    folder=Path(folder),  # requests that leave the training data alone share a seed's source
                    limit=study.limit,
                )
                for request in study.requests
                for seed in study.seeds
            ]

        found, jobs = run_tasks(trial.run, tasks_on, study.source, study.jobs, progress)
    names = [request.name for request in study.requests]
    found.sort(key=lambda r: (names.index(r["scenario"]), study.seeds.index(r["seed"])))
    return {
        "fgunlearn": ops.BUILD_INFO["version"],
        "date": datetime.date.today().isoformat(),
        "machine": {**machine.describe(), "processes": jobs},
        "configuration": _configuration(study),
        "seconds": time.perf_counter() - start,
        "tasks": found,
        "summary": [
            {
                "scenario": request.name,
                "title": request.title,
                **summarise([r for r in found if r["scenario"] == request.name]),
            }
            for request in study.requests
        ],
    }


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over the seeds of one request: what was chosen by each, and mean and standard deviation of the figures."""
    chosen = [r["chosen"] for r in runs]
    summary = {
        "seeds": [r["seed"] for r in runs],
        "chosen": [_about(row) for row in chosen],
        "criterion": mean_and_deviation([row["criterion"] for row in chosen]),
        "expected": merged([r["expected"] for r in runs]),
        "evaluations": mean_and_deviation([len(r["evaluations"]) for r in runs]),
        "seconds": mean_and_deviation([r["seconds"] for r in runs]),
    }
    if "hindsight" in runs[0]:
        hindsight = [r["hindsight"] for r in runs]
        summary |= {
            "best": [_about(h["best"]) for h in hindsight],
            "best_gap": mean_and_deviation([h["best"]["gap"]["average"] for h in hindsight]),
            **{
                name: mean_and_deviation([math.nan if h[name] is None else h[name] for h in hindsight])
                for name in ("gap", "regret", "regret_of_recipe", "regret_of_draw", "spearman", "retrain_seconds")
            },
            "ratio": merged([h["ratio"] for h in hindsight]),
            "accuracy": merged([h["accuracy"] for h in hindsight]),
            "references": merged([h["references"] for h in hindsight]),
        }
    return summary


def _about(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("ratio", "perturb", "epochs")}


def _configuration(study: Study) -> dict[str, Any]:
    grid = study.grid
    return {
        "source": study.source.partition(":")[0],  # where the data lies is nobody's business but its owner's
        "requests": [{"name": request.name, "title": request.title} for request in study.requests],
        "method": study.method,
        "seeds": list(study.seeds),
        "training": asdict(study.training),
        "grid": {
            "ratio": list(grid.ratio),
            "perturb": [Configuration(0.0, perturb, 0.0).size for perturb in grid.perturb],
            "epochs": list(grid.epochs),
            "start": grid.start.name,
        },
        "hindsight": study.hindsight,
        "limit": study.limit,
    }
