"""One task of the study: a setting and a seed, every shift, every model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fgunlearn import metrics
from fgunlearn.experiment import data, training
from fgunlearn.experiment.data import Batches
from fgunlearn.experiment.degree import models, settings, shifts
from fgunlearn.experiment.degree.models import RETRAINED, RETRAINED_AGAIN, Models
from fgunlearn.experiment.degree.shifts import GAN, NOISE, PLAIN, Noise
from fgunlearn.experiment.rank_correlation import spearman
from fgunlearn.experiment.scenarios import Scenario
from fgunlearn.features import features_of
from fgunlearn.metrics.accuracy import logits_and_labels
from fgunlearn.metrics.similarity import js_divergence
from fgunlearn.spdgan import SPDGAN
from fgunlearn.spdgan.samples import UnitRange

Way = SPDGAN | Noise | None
"""How the data is shifted; None for not at all."""

_BATCH = 64
SOURCE = "source"
ORDERED = (RETRAINED, *models.METHODS)
"""What is ordered by how deep the unlearning went."""

PICTURED = 8
"""Samples that a task brings back, before and after the shift."""


@dataclass(frozen=True)
class Task:
    """What to run, on which data, for one seed. ``gan`` holds the arguments of the SPDGAN but for its seed."""

    source: str
    setting: settings.Setting
    seed: int
    training: training.Training
    gan: dict[str, Any]
    limit: int | None = None


def run(task: Task) -> dict[str, Any]:
    """Runs the task in this process. Ready for JSON, but for "samples": two tensors."""
    split = data.load(task.source, task.seed, task.limit)
    scenario = settings.scenario_of(task.setting, split, task.seed)
    made = models.make(scenario, split.classes, task.training, task.seed)
    forget, test = scenario.forget.batches(_BATCH), scenario.test.batches(_BATCH)
    ways = _shifts(task, made, scenario)
    main = ways[GAN]
    assert isinstance(main, SPDGAN)  # for the type checker
    looks = {name: features_of(model, forget) for name, model in _looked_at(made).items()}
    rows = [_of_shift(name, way, made, forget, test, looks, main.fitted.range) for name, way in ways.items()]
    compared = {name: ways[name] for name in (PLAIN, GAN, NOISE)}
    methods = [
        {
            "name": name,
            **{f"accuracy_{part}": metrics.accuracy(model, getattr(scenario, part).batches(_BATCH)) for part in _PARTS},
            "distance": _distance(model, made.others[RETRAINED], [forget, test]),
            "degree": {
                shift: asdict(metrics.unlearning_degree(made.source, model, forget, way, test))
                for shift, way in compared.items()
            },
        }
        for name, model in {SOURCE: made.source, **made.others}.items()
    ]
    x = next(iter(forget))[0][:PICTURED]
    return {
        "setting": task.setting.name,
        "seed": task.seed,
        "sizes": {part: len(getattr(scenario, part)) for part in ("train", *_PARTS)},
        "shifts": rows,
        "methods": methods,
        "correlation": {shift: _correlations(methods, shift) for shift in compared},
        "iid": asdict(metrics.mmd_test(looks["source"], features_of(made.source, test))),
        "history": asdict(main.fitted.history),
        "samples": (x, main.perturb(x)),
    }


_PARTS = ("forget", "retain", "test")


def _shifts(task: Task, made: Models, scenario: Scenario) -> dict[str, Way]:
    forget, train = scenario.forget.batches(_BATCH), scenario.train.batches(_BATCH)

    def gan(looked_at: str = "source", **changed: Any) -> SPDGAN:
        return shifts.fitted(made, forget, train, SPDGAN(seed=task.seed, **{**task.gan, **changed}), looked_at)

    main = gan()
    ways: dict[str, Way] = {PLAIN: None, GAN: main}
    for name, without in shifts.ABLATIONS.items():
        ways[name] = gan(fitting=without(main.fitting))
    ways["through an independent model"] = gan("independent")
    ways["through both"] = gan("both")
    ways["noise, same size"] = shifts.noise_of_the_same_size(main, forget, task.seed)
    ways[NOISE] = shifts.noise_of_the_same_budget(main, made, forget, task.seed)
    return ways


def _looked_at(made: Models) -> dict[str, nn.Module]:
    return {"source": made.source, "independent": made.independent}


def _of_shift(
    name: str,
    way: Way,
    made: Models,
    forget: Batches,
    test: Batches,
    looks: dict[str, Tensor],
    scope: UnitRange,
) -> dict[str, Any]:
    """The shift's size, whether it shows, what it costs the source, and the degree of retraining under it."""
    row: dict[str, Any] = {"name": name}
    if isinstance(way, SPDGAN):
        fit = way.fitted
        row |= {"scale": fit.scale, "steps": len(fit.history.shift), "stopped": fit.history.stopped}
        row |= {"seconds": fit.seconds}
    if way is not None:
        shifted = [(way.perturb(x), y) for x, y in forget]
        pairs = zip(shifted, forget, strict=True)
        moved = [scope.to_unit(after) - scope.to_unit(before) for (after, _), (before, _) in pairs]
        row["rms"] = float(torch.cat(moved).double().square().mean().sqrt())
        row["mmd"] = {
            of: asdict(metrics.mmd_test(looks[of], features_of(model, shifted)))
            for of, model in _looked_at(made).items()
        }
    itself = metrics.unlearning_degree(made.source, made.source, forget, way, test)
    row["itself"] = max(
        abs(bound)
        for part in (itself.acc, itself.loss, itself.net, itself.net_loss)
        if part is not None
        for bound in (part.value, part.low, part.high)
    )
    retrained, again = (
        metrics.unlearning_degree(made.source, made.others[of], forget, way, test)
        for of in (RETRAINED, RETRAINED_AGAIN)
    )
    row |= {
        "source_accuracy_unshifted": itself.source_accuracy_unshifted,
        "source_accuracy": itself.source_accuracy,
        "source_accuracy_control": itself.source_accuracy_control,
        "retrained": asdict(retrained),
        "retrained_again": asdict(again),
    }
    return row


@torch.no_grad()
def _distance(model: nn.Module, retrained: nn.Module, loaders: Sequence[Batches]) -> float:
    """The mean over the loaders of the Jensen-Shannon divergence of the two models' predictions on unshifted data."""
    found = [js_divergence(*(logits_and_labels(m, loader)[0] for m in (model, retrained))) for loader in loaders]
    return sum(found) / len(found)


def _correlations(methods: Sequence[dict[str, Any]], shift: str) -> dict[str, float]:
    """Spearman's rank correlations with the distance to the retrained model; NaN where all are alike.

    - deep: of UD_net with the negated distance, over the retrained model and the methods: do models that are nearer to
      the retrained one have a higher degree?
    - near: of \\|UD_net - UD_net of the retrained model\\| with the distance, over the source, the methods and another
      retrained model: are models of its degree its neighbours?
    """
    net = {m["name"]: m["degree"][shift]["net"]["value"] for m in methods}
    net_loss = {m["name"]: m["degree"][shift]["net_loss"]["value"] for m in methods}
    distance = {m["name"]: m["distance"] for m in methods}
    others = [name for name in net if name != RETRAINED]
    found = {}
    for kind, of in (("acc", net), ("loss", net_loss)):
        found[f"deep_{kind}"] = spearman([of[n] for n in ORDERED], [-distance[n] for n in ORDERED])
        found[f"near_{kind}"] = spearman([abs(of[n] - of[RETRAINED]) for n in others], [distance[n] for n in others])
    return found
