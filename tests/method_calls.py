"""Every method of fgunlearn.methods, called on the tiny classifier with options that take no time."""

from __future__ import annotations

from typing import Any

from torch import nn

import fgunlearn as fg
from small_mlp import gone, kept

NAMES = [
    "retrain", "finetune", "gradient_ascent", "neggrad_plus", "random_label", "salun", "ssd", "scrub", "l1_sparse",
    "fisher_forget", "topk", "randomk", "random_topk",
]  # fmt: skip

QUICK: dict[str, dict[str, Any]] = {
    "ssd": {"alpha": 1.0},
    "fisher_forget": {},
    **{name: {"repair": fg.Repair(epochs=2, lr=0.05)} for name in ("topk", "randomk", "random_topk")},
}
OURS = ("topk", "randomk", "random_topk")
STEPS = [name for name in NAMES if name not in ("ssd", "fisher_forget")]
DESCENTS = [name for name in STEPS if name not in OURS]


def quick(name: str) -> dict[str, Any]:
    return QUICK.get(name, {"epochs": 2, "lr": 0.05, **({"max_epochs": 1} if name == "scrub" else {})})


def call(name: str, model: nn.Module, forget: Any = None, retain: Any = None, **options: Any) -> fg.Result:
    forget, retain = gone() if forget is None else forget, kept() if retain is None else retain
    return fg.methods.get(name)(model, forget, retain, **{**quick(name), **options})
