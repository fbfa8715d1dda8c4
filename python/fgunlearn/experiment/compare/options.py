"""The options that methods are compared with, as data.

All were tuned on digits with seeds 0 and 1, and none of the seeds that are reported. A method's paper gives options for
hours on a GPU; here each gets the epochs that suit a source trained for 30: see docs/compare.md for what was tried.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fgunlearn.experiment.training import Training
from fgunlearn.methods.selective import FORGET_TERM, RECIPES, Recipe

OURS = ("topk", "randomk", "random_topk")

_RISE_AND_FALL = {"schedule": "onecycle", "warmup": 0.15}

DEFAULTS: dict[str, dict[str, Any]] = {
    "finetune": {"epochs": 4, "lr": 0.8, **_RISE_AND_FALL},
    "gradient_ascent": {"epochs": 4, "lr": 0.003},
    "neggrad_plus": {"epochs": 3, "lr": 0.1, "beta": 0.95, **_RISE_AND_FALL},
    "random_label": {"epochs": 2, "lr": 0.05, "schedule": "linear"},
    "salun": {"epochs": 2, "lr": 0.05, "schedule": "linear"},
    "ssd": {"alpha": 9.0},
    "scrub": {"epochs": 3, "max_epochs": 2, "lr": 0.05, "schedule": "linear"},
    "l1_sparse": {"epochs": 4, "lr": 0.2, "gamma": 0.002, **_RISE_AND_FALL},
}
"""By method: what differs from its own defaults."""


def recipe_arguments(
    given: dict[str, Any], training: Training, seed: int, fitting: Recipe = FORGET_TERM
) -> dict[str, Any]:
    """The arguments of a method of this package, for the recipe that is named in ``given``, or else for ``fitting``."""
    given = dict(given)
    recipe = RECIPES[given.pop("recipe")] if "recipe" in given else fitting
    repair = replace(recipe.repair, seed=seed)
    if repair.forget != "none":
        repair = replace(repair, forget_batch=max(1, training.batch // recipe.forget_part))
    if repair.forget == "neighbour":
        # The experiments' model has a better layer to find neighbours by than its first.
        repair = replace(repair, neighbour_layer="stages.0")
    arguments = {"perturb": recipe.perturb, "repair": repair, **given}
    if "k" not in given:
        arguments.setdefault("ratio", recipe.ratio)
    return arguments
