"""The models of the study: the source, two retrained ones, one trained alike, and one for each way to unlearn."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from torch import nn

from fgunlearn.experiment import training
from fgunlearn.experiment.recipes import PAPER, recipes
from fgunlearn.experiment.scenarios import Scenario
from fgunlearn.perturb import Gaussian, Perturbation
from fgunlearn.selection import RandomK, Strategy
from fgunlearn.unlearning import Repair, unlearn

RETRAINED = "retrain"
RETRAINED_AGAIN = "retrain, other seed"
METHODS = ("Top-K", "Random-TopK", "Random-k", "fine-tune", "noise on everything")

_EVALUATION_BATCH = 64
_SEEDS = {
    RETRAINED: training.RETRAIN_SEED,
    RETRAINED_AGAIN: training.AGAIN_SEED,
    "independent": 300,
}  # added to the task's seed
_STEPS = 70  # of a repair, at least: two epochs of a small data set are too few to come back from a perturbation


@dataclass(frozen=True)
class Models:
    """All of one task.

    Attributes:
        source: trained on everything.
        independent: trained like the source with another seed: a model to look through that is not under attack.
        others: the retrained models and the unlearned ones, by name.
    """

    source: nn.Module
    independent: nn.Module
    others: dict[str, nn.Module]


def make(scenario: Scenario, classes: int, how: training.Training, seed: int) -> Models:
    """Trains and unlearns; the paper's recipe of the demo for the strategies, and the same repair for the controls.

    Fine-tuning repairs every parameter without a perturbation; noise on everything is Gaussian noise of 1 rms of the
    tensor on every parameter, and then the same.
    """
    source, _ = training.train(scenario.train, classes, how, seed)
    independent, _ = training.train(scenario.train, classes, how, seed + _SEEDS["independent"])
    others = {
        name: training.train(scenario.retain, classes, how, seed + _SEEDS[name])[0]
        for name in (RETRAINED, RETRAINED_AGAIN)
    }
    paper = {recipe.strategy_name: recipe for recipe in recipes(seed) if recipe.recipe_name == PAPER}
    plain = paper["Random-k"]
    ways: dict[str, tuple[Strategy, Perturbation | None]] = {
        name: (recipe.strategy, recipe.perturb) for name, recipe in paper.items()
    }
    ways["fine-tune"] = (RandomK(1.0, seed=seed), None)
    ways["noise on everything"] = (RandomK(1.0, seed=seed), Gaussian(1.0, seed=seed))
    repair = _long_enough(replace(plain.repair, seed=seed), len(scenario.retain) // plain.batch)
    for name in METHODS:
        strategy, perturb = ways[name]
        model = copy.deepcopy(source)
        unlearn(
            model,
            scenario.forget.batches(plain.batch),
            scenario.retain.batches(plain.batch, seed=seed, drop_last=True),
            strategy=strategy,
            perturb=perturb,
            repair=repair,
            heldout_loader=scenario.heldout.batches(_EVALUATION_BATCH),
        )
        others[name] = model
    return Models(source, independent, others)


def _long_enough(repair: Repair, steps_per_epoch: int) -> Repair:
    return replace(repair, epochs=max(repair.epochs, _STEPS / max(1, steps_per_epoch)))
