"""One task of a comparison: a deletion request and a seed, every method."""

from __future__ import annotations

import copy
import dataclasses
import glob
import hashlib
import json
from pathlib import Path
from typing import Any

from torch import nn

from fgunlearn import machine, methods, metrics
from fgunlearn.batches import device_of
from fgunlearn.experiment import costs
from fgunlearn.experiment.compare.entries import Entry
from fgunlearn.experiment.measure import EVALUATION_BATCH, Measure
from fgunlearn.experiment.requests import Request
from fgunlearn.experiment.results import read_json, write_json
from fgunlearn.experiment.scenarios import Scenario
from fgunlearn.experiment.trained import TrainedModels
from fgunlearn.experiment.training import AGAIN_SEED, RETRAIN_SEED, Training
from fgunlearn.methods.selective import FORGET_TERM, SCORE, Recipe, recipe_for
from fgunlearn.resuming import Checkpoint, CheckpointError
from fgunlearn.resuming.file import remove
from fgunlearn.spdgan import SPDGAN
from fgunlearn.unlearning.changing import timed
from fgunlearn.unlearning.result import Result

SOURCE = "source"
RETRAINED = "retrained"
_GAN = "spdgan"

CHECKPOINTS = "checkpoints"
CHECKPOINT_EVERY = 200
"""Training steps. To write one took 25 ms, as long as two steps of the digits' model (135,000 parameters)."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What to run.

    ``folder`` is where finished results are kept, one file each, and what is not finished, a checkpoint every so many
    training steps; ``data`` is the data's digest, ``gan`` the SPDGAN's arguments.
    """

    source: str
    request: Request
    seed: int
    entries: tuple[Entry, ...]
    training: Training
    folder: Path
    data: str = ""
    limit: int | None = None
    gan: dict[str, Any] = dataclasses.field(default_factory=dict)
    relearn: bool = True
    checkpoint_every: int = CHECKPOINT_EVERY

    @property
    def title(self) -> str:
        """For a reader."""
        return f"{self.request.title}, seed {self.seed}"

    def path(self, name: str, options: Any) -> Path:
        """Where the row of that name is kept: under a hash of all that it is a function of."""
        there = machine.describe()
        given = [name, repr(options), repr(self.request), repr(self.training), repr(self.gan), self.limit, self.relearn]
        given += [self.data, machine.code_digest(), there["processor"], there["torch"]]
        digest = hashlib.sha256(json.dumps(given).encode()).hexdigest()[:12]
        return self.folder / "runs" / f"{self.stem}-{name.partition(':')[0]}-{digest}.json"

    @property
    def stem(self) -> str:
        """How the names of its files begin."""
        return f"{self.request.name}-seed{self.seed}"

    def checkpoint(self, name: str, options: Any = None) -> Checkpoint:
        """Of what is in work under that name; its file stays until it is removed."""
        path = self._checkpoint_path(name, options)
        path.parent.mkdir(parents=True, exist_ok=True)
        return Checkpoint(path, self.checkpoint_every, keep=True, data=self.data)

    def remove_checkpoint(self, name: str, options: Any = None) -> None:
        """Removes that file, if it is there."""
        path = self._checkpoint_path(name, options)
        if path.exists():
            remove(path)

    def _checkpoint_path(self, name: str, options: Any) -> Path:
        return self.folder / CHECKPOINTS / self.path(name, options).with_suffix(".safetensors").name

    def paths(self) -> list[tuple[str, Path]]:
        """Every row's name, in the table's order, and its file."""
        of_entries = [(entry.name, self.path(entry.name, self.arguments(entry))) for entry in self.entries]
        return [(name, self.path(name, None)) for name in (SOURCE, RETRAINED)] + of_entries

    def arguments(self, entry: Entry, fitting: Recipe = FORGET_TERM) -> dict[str, Any]:
        """What the entry's method is called with; where the recipe is open, ``fitting`` is it."""
        return entry.arguments(self.training, self.seed + (AGAIN_SEED if entry.method == "retrain" else 0), fitting)


def finished(task: Task) -> list[dict[str, Any]] | None:
    """The rows of a task that is done; None if one is missing."""
    rows = [_row(task, name, path) for name, path in task.paths()]
    return None if any(row is None for row in rows) else [row for row in rows if row is not None]


def _row(task: Task, name: str, path: Path) -> dict[str, Any] | None:
    """What a file holds, if it is that row."""
    row = read_json(path)
    about = {"name": name, "scenario": task.request.name, "seed": task.seed}
    return row if row is not None and about.items() <= row.items() else None


def run(task: Task) -> str:
    """Runs what is not finished yet, and writes each row as it is there. Returns the task's title."""
    if finished(task) is not None:
        _clear(task)
        return task.title
    (task.folder / "runs").mkdir(parents=True, exist_ok=True)
    scenario, classes = task.request.scenario(task.source, task.seed, task.limit)
    trained = TrainedModels(task.folder / "models")
    source, source_seconds = trained.train(
        scenario.train, classes, task.training, task.seed, checkpoint=task.checkpoint(SOURCE)
    )
    retrained, seconds = trained.train(
        scenario.retain,
        classes,
        task.training,
        task.seed + RETRAIN_SEED,
        occasion=task.request.name,
        checkpoint=task.checkpoint(RETRAINED),
    )
    forget, train = scenario.forget.batches(EVALUATION_BATCH), scenario.train.batches(EVALUATION_BATCH)
    gan = SPDGAN(seed=task.seed, **task.gan).fit(source, forget, train, checkpoint=task.checkpoint(_GAN))
    measure = Measure(scenario, source, retrained, gan, seed=task.seed, relearn=task.relearn)
    about = {
        "scenario": task.request.name,
        "seed": task.seed,
        "sizes": {part: len(getattr(scenario, part)) for part in ("forget", "retain", "heldout", "test")},
        "parameters": sum(p.numel() for p in source.parameters()),
    }
    for (name, path), entry in zip(task.paths(), (None, None, *task.entries), strict=True):
        if _row(task, name, path) is not None:
            continue
        row: dict[str, Any] = {**about, "name": name}
        if entry is None:
            model, took = (source, source_seconds) if name == SOURCE else (retrained, seconds)
            row |= {"seconds": took, **({} if name == SOURCE else {"acceleration": 1.0})}
            row |= measure.of(model)
        else:
            row |= _unlearned(task, entry, scenario, source, seconds, measure)
        write_json(row, path)
        if entry is not None:
            task.remove_checkpoint(name, task.arguments(entry))
    _clear(task)
    if len(list((task.folder / CHECKPOINTS).glob(f"{glob.escape(task.stem)}-*"))) == 1:
        task.remove_checkpoint(_GAN)  # no other method that was killed is to go on with the generator
    return task.title


def _clear(task: Task) -> None:
    """Removes what a kill has left of a task that is done: checkpoints of written rows and of models that are kept."""
    for entry in task.entries:
        task.remove_checkpoint(entry.name, task.arguments(entry))
    for name in (SOURCE, RETRAINED):
        for path in (task.folder / CHECKPOINTS).glob(f"{glob.escape(task.stem)}-{name}-*"):
            remove(path)


def _unlearned(
    task: Task,
    entry: Entry,
    scenario: Scenario,
    source: nn.Module,
    retrain_seconds: float,
    measure: Measure,
) -> dict[str, Any]:
    model = copy.deepcopy(source)
    batch = task.training.batch
    retain = scenario.retain.batches(batch, seed=task.seed, drop_last=True)
    heldout = scenario.heldout.batches(EVALUATION_BATCH)
    choosing: dict[str, float] = {}
    recipe = FORGET_TERM
    if entry.open_recipe:
        with timed(choosing, "recipe", device_of(model)):
            recipe = recipe_for(model, retain, heldout)
    arguments = task.arguments(entry, recipe)
    about = {
        "method": entry.method,
        "ours": entry.ours,
        **({"recipe": recipe.name} if entry.open_recipe else {}),
        "options": {name: _shown(value) for name, value in arguments.items()},
    }
    try:
        result = methods.get(entry.method)(
            model,
            scenario.forget.batches(batch),
            retain,
            heldout_loader=heldout,
            seed=task.seed + (AGAIN_SEED if entry.method == "retrain" else 0),
            checkpoint=task.checkpoint(entry.name, task.arguments(entry)),
            **arguments,
        )
        result.seconds.update(choosing)
        figures = measure.of(model)
    except CheckpointError:
        raise
    except ValueError as error:  # it diverged, now or when it was looked at: options were checked before any training
        return {**about, "failed": str(error)}
    except TypeError as error:
        raise TypeError(f"{entry.name}: {error}") from error
    calibrated = costs.calibrated(source, scenario, task.training, result.selection)
    measured = metrics.acceleration_ratio(retrain_seconds, result.total_seconds)
    scored = costs.scored_passes(_score_of(entry, arguments))
    predicted = costs.predicted_acceleration(calibrated, result, scenario, task.training, scored, batch)
    return {
        **about,
        **figures,
        "seconds": result.total_seconds,
        "phases": result.seconds,
        "acceleration": measured,
        "predicted_acceleration": predicted,
        "prediction_error": metrics.CostModel.error(predicted, measured),
        "history": result.record.history,
        "steps": result.record.steps,
        "stopped_forgetting": result.record.stopped_forgetting,
        "changed": sum(result.changed.values()),
        **_selected(result),
    }


def _score_of(entry: Entry, arguments: dict[str, Any]) -> str | None:
    """By what a method ranks coordinates before its first step, if it does."""
    if entry.method == "salun":
        return "grad"
    return arguments.get("score", SCORE) if entry.method in ("topk", "random_topk") else None


def _selected(result: Result) -> dict[str, Any]:
    if result.selection is None:
        return {"selected": None, "density": None}
    return {"selected": result.selection.k, "density": result.selection.density()}


def _shown(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool, type(None))) else repr(value)
