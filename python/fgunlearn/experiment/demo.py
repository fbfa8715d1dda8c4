"""The demo: three scenarios, several seeds, every recipe, in worker processes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fgunlearn import machine, ops
from fgunlearn.experiment import scenarios, trial
from fgunlearn.experiment.recipes import recipes
from fgunlearn.experiment.results import mean_and_deviation
from fgunlearn.experiment.tasks import run_tasks
from fgunlearn.experiment.training import Training

GAP_LIMIT = 0.01
"""Largest accuracy gap to the retrained model, on each of D_u, D_r and D_t (mean over seeds)."""

ACCELERATION_LIMIT = 10.0

DEFAULT_SEEDS = (100, 101, 102)
"""Seeds that no recipe was tuned on."""


@dataclass(frozen=True)
class Demo:
    """What to run.

    Attributes:
        source: data, see :func:`fgunlearn.experiment.data.read`.
        scenarios: of "random", "class", "mislabel".
        seeds: each gives a split, a source model and a retrained model of its own.
        jobs: worker processes of one thread each; 1 runs in this process. 0: one per core, at most one per task.
        training: of source and retrained models.
        limit: use at most this many training images.
        gan: arguments of :class:`fgunlearn.SPDGAN` that differ from its defaults, but for the seed.
    """

    source: str = "digits"
    scenarios: Sequence[str] = scenarios.NAMES
    seeds: Sequence[int] = DEFAULT_SEEDS
    jobs: int = 0
    training: Training = field(default_factory=Training)
    limit: int | None = None
    gan: dict[str, Any] = field(default_factory=dict)


def run(demo: Demo, progress: bool = True) -> dict[str, Any]:
    """Runs all tasks and returns what the JSON file holds: machine, configuration, tasks, summary."""
    start = time.perf_counter()

    def tasks_on(source: str) -> list[trial.Task]:
        return [
            trial.Task(source, scenario, seed, demo.training, demo.limit, demo.gan)
            for seed in demo.seeds
            for scenario in demo.scenarios
        ]

    results, jobs = run_tasks(trial.run, tasks_on, demo.source, demo.jobs, progress)
    results.sort(key=lambda r: (demo.scenarios.index(r["scenario"]), r["seed"]))
    return {
        "fgunlearn": ops.BUILD_INFO["version"],
        "machine": {**machine.describe(), "processes": jobs},
        # Where the data lies is nobody's business but its owner's.
        "configuration": {
            **asdict(demo),
            "source": demo.source.partition(":")[0],
            "recipes": {r.name: repr(r) for r in recipes(0)},
        },
        "seconds": time.perf_counter() - start,
        "tasks": results,
        "summary": summarise(results),
    }


def summarise(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per scenario and row the mean and standard deviation over seeds, gaps to the retrained model, and the verdict.

    Standard deviations are of the sample (n - 1); gaps are means over seeds of model minus retrained model. The best
    recipe has the smallest largest gap among those that are fast enough (among all if none is).
    """
    summary = []
    for scenario in dict.fromkeys(r["scenario"] for r in results):
        runs = [r for r in results if r["scenario"] == scenario]
        rows = []
        for position, first in enumerate(runs[0]["rows"]):
            same = [r["rows"][position] for r in runs]
            row: dict[str, Any] = {key: first[key] for key in ("name", "strategy", "recipe", "control") if key in first}
            for key, value in first.items():
                if isinstance(value, float):
                    row[key] = mean_and_deviation([s[key] for s in same])
            row["gaps"] = {
                part: statistics.fmean(
                    r["rows"][position][f"accuracy_{part}"] - r["rows"][1][f"accuracy_{part}"] for r in runs
                )
                for part in ("forget", "retain", "test")
            }
            row["largest_gap"] = max(abs(gap) for gap in row["gaps"].values())
            rows.append(row)
        candidates = [row for row in rows if "strategy" in row]
        fast = [row for row in candidates if row["acceleration"]["mean"] >= ACCELERATION_LIMIT]
        best = min(fast or candidates, key=lambda row: row["largest_gap"])
        met = best["largest_gap"] <= GAP_LIMIT and best["acceleration"]["mean"] >= ACCELERATION_LIMIT
        summary.append({"scenario": scenario, "seeds": len(runs), "rows": rows, "best": best["name"], "met": met})
    return summary
