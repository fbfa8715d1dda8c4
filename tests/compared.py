"""Results of a comparison as :func:`fgunlearn.experiment.compare.comparison.run` gives them, without running one."""

from __future__ import annotations

import math
import random
from typing import Any

from fgunlearn.experiment.compare.comparison import LIMITS, summarise

RATIOS = tuple(f"topk:ratio={ratio}" for ratio in (0.01, 0.05, 0.1, 0.3, 0.5, 1.0))
SHARES = tuple(f"random_topk:top_share={share}" for share in (0.0, 0.25, 0.5, 0.75, 1.0))
BASELINES = (
    *("finetune", "gradient_ascent", "neggrad_plus", "random_label", "salun", "ssd", "scrub", "l1_sparse"),
    "fisher_forget",
)
EVERY = ("retrain", "topk", "topk:recipe=perturb + repair", "randomk", "random_topk", *RATIOS, *SHARES, *BASELINES)
OURS = ("topk", "randomk", "random_topk")
TENSORS = tuple(f"stages.{i}.{kind}" for i in range(6) for kind in ("conv1.weight", "norm1.weight", "norm1.bias"))
_ATTACKS = ("loss", "confidence", "entropy", "modified_entropy", "logistic")


def row(scenario: str, seed: int, name: str, **given: Any) -> dict[str, Any]:
    """One model's row; figures that are given replace those drawn for that scenario, seed and name."""
    method = name.partition(":")[0]
    draw = random.Random(f"{scenario} {seed} {name}")
    gaps = {part: 0.0 if name == "retrained" else draw.gauss(0.0, 0.02) for part in ("forget", "retain", "test")}
    auc = 0.5 if name == "retrained" else draw.gauss(0.5, 0.03)
    took = draw.uniform(0.5, 8.0)
    found: dict[str, Any] = {
        "scenario": scenario,
        "seed": seed,
        "sizes": {"forget": 144, "retain": 1294, "heldout": 180, "test": 360},
        "parameters": 134586,
        "name": name,
        **{f"accuracy_{part}": 0.97 + gap for part, gap in gaps.items()},
        "accuracy_heldout": 0.97,
        **{f"gap_{part}": gap for part, gap in gaps.items()},
        "forgetting_rate": draw.gauss(0.0, 0.1),
        "memory_retention_rate": draw.uniform(0.9, 1.0),
        "gap_mia": auc - 0.5,
        "gap_mia_worst": 1.4 * (auc - 0.5),
        "tug_of_war": math.prod(1.0 - abs(gap) for gap in gaps.values()),
        "average_gap": 100.0 * (sum(map(abs, gaps.values())) + abs(auc - 0.5)) / 4,
        "mia": {
            attack: {
                "auc": {"value": auc, "low": auc - 0.06, "high": auc + 0.06},
                "tpr": {"value": 0.02, "low": 0.0, "high": 0.06},
                "accuracy": 0.52,
                "member_share": 0.7,
            }
            for attack in _ATTACKS
        },
        "nomus": draw.uniform(0.9, 1.0),
        "js_divergence": 0.0 if name == "retrained" else draw.uniform(0.0, 0.04),
        "agreement": 0.98,
        "unlearning_degree": {"value": draw.gauss(0.04, 0.03), "low": -0.08, "high": 0.13},
        "unlearning_degree_loss": {"value": 0.1, "low": -0.03, "high": 0.25},
        "relearn_steps": 12.0,
        "relearn_ratio": draw.uniform(0.2, 1.4),
        "scores": {
            "edges": [-1.0 + 0.5 * i for i in range(25)],
            "forget": [math.exp(-((i - 14) ** 2) / 20) / 7.9 for i in range(24)],
            "unseen": [math.exp(-((i - 10) ** 2) / 30) / 9.7 for i in range(24)],
        },
        "seconds": 40.0 if method in ("source", "retrained", "retrain") else took,
    }
    if method != "source":
        found["acceleration"] = 40.0 / found["seconds"]
    if method not in ("source", "retrained"):
        found |= _of_method(method, took, draw)
    return found | given


def _of_method(method: str, took: float, draw: random.Random) -> dict[str, Any]:
    ours = method in OURS
    return {
        "method": method,
        "ours": ours,
        "options": {"ratio": 0.3} if ours else {},
        "phases": {"select": 0.1 * took, "forget setup": 0.1 * took, "perturb": 0.01, "repair": 0.79 * took}
        if ours
        else {method: took},
        "predicted_acceleration": 39.0 / took,
        "prediction_error": -0.025,
        "history": [
            {
                "epoch": epoch,
                "retain_loss": 0.2 / epoch + 0.01 * draw.random(),
                "forget_loss": 0.4 / epoch if ours and epoch < 3 else None,
                "learning_rate": 0.1 / epoch,
            }
            for epoch in range(1, 5)
        ],
        "steps": 80,
        "stopped_forgetting": True,
        "changed": 40375,
        "selected": 40375 if ours else None,
        "density": {tensor: draw.uniform(0.1, 0.6) for tensor in TENSORS} if ours else None,
    }


def summary(scenario: str, title: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The summary of a scenario's rows."""
    return summarise(scenario, title, rows)


def results(
    names: tuple[str, ...] = EVERY,
    seeds: tuple[int, ...] = (100, 101, 102),
    scenarios: tuple[str, ...] = ("random-0.1",),
    **given: dict[str, Any],
) -> dict[str, Any]:
    """Results of every scenario, seed and method. ``given`` replaces figures, by the method's name."""
    rows = {
        scenario: [
            row(scenario, seed, name, **given.get(name, {}))
            for seed in seeds
            for name in ("source", "retrained", *names)
        ]
        for scenario in scenarios
    }
    return {
        "fgunlearn": "0.1.0",
        "date": "2026-01-31",
        "machine": {"processor": "Processor", "cores": 2, "memory_gib": 7.8, "torch": "2.13.0", "processes": 2},
        "configuration": {
            "source": "digits",
            "requests": [{"name": scenario, "title": f"forget {scenario}"} for scenario in scenarios],
            "entries": list(names),
            "seeds": list(seeds),
            "training": {"widths": [16, 32, 96], "epochs": 30, "batch": 32, "lr": 0.1},
            "limit": None,
            "gan": {},
        },
        "limits": LIMITS,
        "seconds": 1234.5,
        "rows": [row for of_scenario in rows.values() for row in of_scenario],
        "summary": [summary(scenario, f"forget {scenario}", of_scenario) for scenario, of_scenario in rows.items()],
    }
