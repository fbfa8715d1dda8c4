"""fgunlearn: removes chosen training data from a trained model by perturbing and repairing a few of its parameters."""

from typing import Any

from fgunlearn import metrics, ops
from fgunlearn.optim import SparseOptimizer, clip_grad_norm_, no_drift
from fgunlearn.perturb import Ascent, Gaussian, Reset, Shrink, Zero, perturb_
from fgunlearn.selection import RandomK, RandomTopK, Selection, TopK, randomk, score, select, topk
from fgunlearn.unlearning import Repair, Result, unlearn

__version__: str = ops.BUILD_INFO["version"]


def build_info() -> dict[str, Any]:
    """What is installed: version, compiler, oldest torch and torch built with, CUDA, instruction set in use, paths."""
    return dict(ops.BUILD_INFO)


__all__ = [
    "Ascent",
    "Gaussian",
    "RandomK",
    "RandomTopK",
    "Repair",
    "Reset",
    "Result",
    "Selection",
    "Shrink",
    "SparseOptimizer",
    "TopK",
    "Zero",
    "__version__",
    "build_info",
    "clip_grad_norm_",
    "metrics",
    "no_drift",
    "ops",
    "perturb_",
    "randomk",
    "score",
    "select",
    "topk",
    "unlearn",
]
