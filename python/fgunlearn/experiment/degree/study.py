"""The study: settings, seeds, and what comes out over them."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from fgunlearn import machine, ops
from fgunlearn.experiment.degree import trial
from fgunlearn.experiment.degree.settings import SETTINGS
from fgunlearn.experiment.rank_correlation import check_scipy
from fgunlearn.experiment.results import merged
from fgunlearn.experiment.tasks import run_tasks
from fgunlearn.experiment.training import Training

DEFAULT_SEEDS = (100, 101, 102)
"""Seeds that nothing was tuned on."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What to run.

    Attributes:
        source: data, see :func:`fgunlearn.experiment.data.read`.
        settings: names, see :mod:`fgunlearn.experiment.degree.settings`.
        seeds: each gives a split and models of its own.
        jobs: worker processes of one thread each; 0 for one per core.
        training: of source and retrained models.
        gan: arguments of :class:`fgunlearn.SPDGAN` that differ from its defaults, but for the seed.
        limit: use at most this many training images.
    """

    source: str = "digits"
    settings: Sequence[str] = tuple(SETTINGS)
    seeds: Sequence[int] = DEFAULT_SEEDS
    jobs: int = 0
    training: Training = field(default_factory=Training)
    gan: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None


def run(study: Study, progress: bool = True) -> tuple[dict[str, Any], dict[str, tuple[Tensor, Tensor]]]:
    """Runs all tasks: what the JSON file holds, and per setting some samples before and after, of the first seed.

    Raises:
        ImportError: scipy is missing, before anything is trained; the message says what to install.
        ValueError: no setting or no seed.
    """
    for name, given in (("settings", study.settings), ("seeds", study.seeds)):
        if not given:
            raise ValueError(f"{name} must hold at least one, got {given!r}")
    check_scipy()
    start = time.perf_counter()

    def tasks_on(source: str) -> list[trial.Task]:
        return [
            trial.Task(source, SETTINGS[name], seed, study.training, study.gan, study.limit)
            for seed in study.seeds
            for name in study.settings
        ]

    found, jobs = run_tasks(trial.run, tasks_on, study.source, study.jobs, progress)
    found.sort(key=lambda r: (study.settings.index(r["setting"]), study.seeds.index(r["seed"])))
    samples: dict[str, tuple[Tensor, Tensor]] = {}
    for result in found:
        pictured = result.pop("samples")
        samples.setdefault(result["setting"], pictured)
    return {
        "fgunlearn": ops.BUILD_INFO["version"],
        "date": datetime.date.today().isoformat(),
        "machine": {**machine.describe(), "processes": jobs},
        # Where the data lies is nobody's business but its owner's.
        "configuration": {**asdict(study), "source": study.source.partition(":")[0]},
        "seconds": time.perf_counter() - start,
        "tasks": found,
        "summary": {name: summarise([r for r in found if r["setting"] == name]) for name in study.settings},
    }, samples


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean, standard deviation and number of seeds of each figure, over the runs of one setting.

    Intervals are not averaged: what is kept of them is for how many seeds they exclude 0.
    """
    return {
        "shifts": [merged([r["shifts"][i] for r in runs]) for i in range(len(runs[0]["shifts"]))],
        "methods": [merged([r["methods"][i] for r in runs]) for i in range(len(runs[0]["methods"]))],
        "correlation": merged([r["correlation"] for r in runs]),
        "iid": merged([r["iid"] for r in runs]),
        "sizes": runs[0]["sizes"],
        "seeds": len(runs),
    }
