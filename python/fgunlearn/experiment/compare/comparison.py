"""A comparison: requests, seeds, methods; what is finished stays finished, and what comes out over the seeds."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import datetime
import fcntl
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fgunlearn import machine, ops
from fgunlearn.arguments import check_count
from fgunlearn.experiment import data
from fgunlearn.experiment.compare import trial
from fgunlearn.experiment.compare.entries import Entry, all_methods
from fgunlearn.experiment.compare.trial import Task
from fgunlearn.experiment.requests import Request
from fgunlearn.experiment.results import merged, read_json, write_json
from fgunlearn.experiment.tasks import run_tasks
from fgunlearn.experiment.training import Training
from fgunlearn.files import replacing
from fgunlearn.metrics import ATTACKS
from fgunlearn.spdgan import SPDGAN

DEFAULT_SEEDS = (100, 101, 102)
"""Seeds that nothing was tuned on."""

LIMITS = {"accuracy gap": 0.01, "MIA gap": 0.02, "average gap": 1.0, "tug of war": 0.97}
"""What an unlearned model has to keep to: means over seeds of |accuracy - retrained| on each part, of |AUC - retrained|
of the loss attack, of the average gap in points, and the least mean tug of war."""

RESULTS, TABLE, REPORT, SETTINGS, CALLS, LOCK = (
    *("results.json", "results.csv", "report.html"),
    *("comparison.json", "calls.json", ".lock"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What to run.

    Attributes:
        source: data, see :func:`fgunlearn.experiment.data.read`.
        requests: what is to be forgotten, one at a time.
        entries: by which methods.
        seeds: each gives a split, a source and a retrained model of its own.
        training: of source and retrained models.
        limit: use at most this many training images.
        gan: arguments of :class:`fgunlearn.SPDGAN` that differ from its defaults, but for the seed.
        relearn: measure relearn times.
        jobs: worker processes of one thread each; 0 for one per core.
        checkpoint_every: training steps between two checkpoints, from which a run that was killed goes on.
    """

    source: str = "digits"
    requests: Sequence[Request] = (Request("random"), Request("class"), Request("mislabel"))
    entries: Sequence[Entry] = tuple(all_methods())
    seeds: Sequence[int] = DEFAULT_SEEDS
    training: Training = dataclasses.field(default_factory=Training)
    limit: int | None = None
    gan: dict[str, Any] = dataclasses.field(default_factory=dict)
    relearn: bool = True
    jobs: int = 0
    checkpoint_every: int = trial.CHECKPOINT_EVERY


class OtherExperimentError(ValueError):
    """The output folder holds the results of another experiment."""


class FolderInUseError(ValueError):
    """Another run is at work in the output folder."""


def run(comparison: Comparison, folder: Path, progress: bool = True) -> dict[str, Any]:
    """Runs what is not finished in the folder, and writes ``results.json`` and ``results.csv`` there.

    Each finished row is a file in the folder, and so is, every so many steps, the state of each training in work; so
    after Ctrl-C, a full disk or a power cut the same call goes on where it was, bit for bit. Methods, requests and
    seeds may be added later; data and training may not change.

    Returns:
        What ``results.json`` holds. Its "seconds" are those of all calls for this folder together, of those that ended
        with Ctrl-C or an error too; only of a call that was killed outright nothing is known.

    Raises:
        OtherExperimentError: the folder is another experiment's.
        FolderInUseError: another run is at work there.
        CheckpointError: a file of a training in work is damaged.
        TypeError, ValueError: nothing to run; checkpoint_every below 1; a class or rows that the data does not have; an
            option that a method does not take or refuses, and of which entry. All of it before anything is trained.
        OSError: the folder can't be written; what is finished stays.
    """
    for name, given in (
        ("requests", comparison.requests),
        ("entries", comparison.entries),
        ("seeds", comparison.seeds),
    ):
        if not given:
            raise ValueError(f"{name} must hold at least one, got {given!r}")
    check_count(comparison.checkpoint_every, "checkpoint_every")
    start = time.perf_counter()
    digest = data.read_once(comparison.source).digest
    # What can't be asked for is found before a folder is made, and before hours of training.
    for request in comparison.requests:
        scenario, classes = request.scenario(comparison.source, comparison.seeds[0], comparison.limit)
    model = comparison.training.new_model(scenario.train, classes, comparison.seeds[0])
    for entry in comparison.entries:
        entry.check(model, comparison.training)
    SPDGAN(seed=comparison.seeds[0], **comparison.gan)
    _refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        _claim(comparison, folder, digest)
        with _counted(folder / CALLS, start) as seconds:
            return _run(comparison, folder, digest, seconds, progress)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other run is at work in the folder meanwhile, as far as its file system has locks.

    What a killed one has left of checkpoints that it was writing is removed before, and their folder after, if it is
    empty.

    Raises:
        FolderInUseError: one is.
    """
    checkpoints = folder / trial.CHECKPOINTS
    with (folder / LOCK).open("w") as file, contextlib.ExitStack() as locked:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUseError(
                f"another comparison is at work in {folder}: wait for it, or name another folder"
            ) from error
        except OSError:
            pass
        else:
            locked.callback(fcntl.flock, file, fcntl.LOCK_UN)  # a child that was forked may have it, too
            for begun in checkpoints.glob(".*.part"):
                begun.unlink(missing_ok=True)
        yield
        with contextlib.suppress(OSError):
            checkpoints.rmdir()


@contextlib.contextmanager
def _counted(path: Path, start: float) -> Iterator[Callable[[], float]]:
    """Adds this call's seconds since ``start`` to those in the file, however it ends; yields what tells their sum."""
    before = (read_json(path) or {}).get("seconds", 0.0)

    def seconds() -> float:
        return float(before + time.perf_counter() - start)

    try:
        yield seconds
    finally:
        with contextlib.suppress(OSError):  # the error that it ends with matters more, such as a full disk
            write_json({"seconds": seconds()}, path)


def _run(
    comparison: Comparison, folder: Path, digest: str, seconds: Callable[[], float], progress: bool
) -> dict[str, Any]:
    tasks = tasks_of(comparison, folder, comparison.source, digest)
    _, jobs = run_tasks(
        trial.run,
        lambda source: [dataclasses.replace(task, source=source) for task in tasks],
        comparison.source,
        comparison.jobs,
        progress,
    )
    rows = [row for task in tasks for row in trial.finished(task) or []]
    results = {
        "fgunlearn": ops.BUILD_INFO["version"],
        "date": datetime.date.today().isoformat(),
        "machine": {**machine.describe(), "processes": jobs},
        "configuration": _configuration(comparison),
        "limits": LIMITS,
        "seconds": seconds(),
        "rows": rows,
        "summary": [
            summarise(request.name, request.title, [r for r in rows if r["scenario"] == request.name])
            for request in comparison.requests
        ],
    }
    write_json(results, folder / RESULTS)
    _write_table(results, folder / TABLE)
    return results


def tasks_of(comparison: Comparison, folder: Path, source: str, digest: str = "") -> list[Task]:
    """One task for every request and seed, on the data of that digest."""
    return [
        Task(
            source=source,
            request=request,
            seed=seed,
            entries=tuple(comparison.entries),
            training=comparison.training,
            folder=folder,
            data=digest,
            limit=comparison.limit,
            gan=comparison.gan,
            relearn=comparison.relearn,
            checkpoint_every=comparison.checkpoint_every,
        )
        for request in comparison.requests
        for seed in comparison.seeds
    ]


def _refuse_foreign(folder: Path) -> None:
    """That a folder has nothing, or a comparison."""
    if read_json(folder / SETTINGS) is not None or not folder.is_dir():
        return
    if any(path.suffix != ".part" and path.name != LOCK for path in folder.iterdir()):
        raise OtherExperimentError(f"{folder} holds files that are not a comparison's: name an empty or a new folder")


def _claim(comparison: Comparison, folder: Path, digest: str) -> None:
    """Makes the folder this experiment's, if it is nobody's."""
    configuration = _configuration(comparison)
    mine = {name: configuration[name] for name in ("source", "training", "limit")} | {"data": digest}
    theirs = read_json(folder / SETTINGS)
    if theirs is None:
        write_json(mine, folder / SETTINGS)
        return
    for name, value in mine.items():
        if theirs.get(name) != value:
            raise OtherExperimentError(
                f"{folder} holds another experiment: its {name} is {theirs.get(name)!r}, and not {value!r}"
            )


def _configuration(comparison: Comparison) -> dict[str, Any]:
    """As it is read from JSON again, which has no tuples."""
    configuration = {
        "source": comparison.source.partition(":")[0],  # where the data lies is nobody's business but its owner's
        "requests": [{"name": request.name, "title": request.title} for request in comparison.requests],
        "entries": [entry.name for entry in comparison.entries],
        "seeds": list(comparison.seeds),
        "training": dataclasses.asdict(comparison.training),
        "limit": comparison.limit,
        "gan": dataclasses.asdict(comparison)["gan"],
    }
    plain: dict[str, Any] = json.loads(json.dumps(configuration))
    return plain


def summarise(scenario: str, title: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over the seeds of every figure of every model, and whether a method keeps to the limits.

    ``gap_sizes`` are of |gap|, seed by seed: gaps of opposite signs do not make a small one.

    The best of this package's methods is the one with the smallest average gap among those that keep to the limits, or
    among all if none does; likewise the best of the others, retraining left out. A method with options beside it is
    only asked where none of them comes without: the best of many settings by hindsight is partly the luckiest.
    """
    summaries = []
    for name in dict.fromkeys(row["name"] for row in rows):
        same = [{k: v for k, v in row.items() if k not in _NOT_MERGED} for row in rows if row["name"] == name]
        summary = merged([{**row, **_sizes_of_gaps(row)} for row in same])
        failed = [row["failed"] for row in rows if row["name"] == name and "failed" in row]
        if failed:  # a mean over the seeds that went well would flatter it
            summary = {k: v for k, v in same[0].items() if k in _ABOUT} | {"failed": failed[0], "failures": len(failed)}
        elif "method" in summary:
            summary["met"] = _met(summary)
        summaries.append(summary)
    candidates = [s for s in summaries if "met" in s and s["method"] != "retrain"]
    best = {
        which: _best([s for s in candidates if s["ours"] is ours])
        for which, ours in (("ours", True), ("others", False))
    }
    return {
        "scenario": scenario,
        "title": title,
        "seeds": len({r["seed"] for r in rows}),
        "best": best,
        "rows": summaries,
    }


_ABOUT = ("scenario", "name", "method", "ours")
_NOT_MERGED = ("history", "scores", "options", "phases", "recipe", "seed", "sizes")


_GAPS = ("forget", "retain", "test", "mia", "mia_worst")


def _sizes_of_gaps(row: dict[str, Any]) -> dict[str, Any]:
    return {"gap_sizes": {part: abs(row[f"gap_{part}"]) for part in _GAPS}} if "gap_forget" in row else {}


def _met(summary: dict[str, Any]) -> dict[str, bool]:
    sizes = {part: size["mean"] for part, size in summary["gap_sizes"].items()}
    return {
        "accuracy gap": max(sizes[part] for part in ("forget", "retain", "test")) <= LIMITS["accuracy gap"] + 1e-12,
        "MIA gap": sizes["mia"] <= LIMITS["MIA gap"],
        "average gap": summary["average_gap"]["mean"] <= LIMITS["average gap"],
        "tug of war": summary["tug_of_war"]["mean"] >= LIMITS["tug of war"],
    }


def _best(candidates: Sequence[dict[str, Any]]) -> str | None:
    candidates = [s for s in candidates if s["name"] == s["method"]] or candidates
    if not candidates:
        return None
    fitting = [s for s in candidates if all(s["met"].values())]
    return str(min(fitting or candidates, key=lambda s: s["average_gap"]["mean"])["name"])


_COLUMNS = (
    *("scenario", "seed", "name"),
    *(f"accuracy_{part}" for part in ("forget", "retain", "test")),
    *("forgetting_rate", "memory_retention_rate", "average_gap", "tug_of_war", "gap_mia", "gap_mia_worst"),
    *("nomus", "js_divergence", "agreement", "relative_l2", "cosine", "cka"),
    *("unlearning_degree", "unlearning_degree_loss", "relearn_ratio"),
    *("seconds", "acceleration", "predicted_acceleration", "selected", "changed", "failed"),
)


def _write_table(results: dict[str, Any], path: Path) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        attacks = list(ATTACKS)
        writer.writerow([*_COLUMNS, *(f"mia_{name}_{figure}" for name in attacks for figure in ("auc", "tpr"))])
        for row in results["rows"]:
            of_attacks = [
                row["mia"][name][figure]["value"] if "mia" in row else None
                for name in attacks
                for figure in ("auc", "tpr")
            ]
            writer.writerow([*(_plain(row.get(column)) for column in _COLUMNS), *of_attacks])


def _plain(value: Any) -> Any:
    return value["value"] if isinstance(value, dict) else value
