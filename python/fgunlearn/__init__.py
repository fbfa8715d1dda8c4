"""fgunlearn: removes chosen training data from a trained model by perturbing and repairing a few of its parameters."""

from typing import Any

from fgunlearn import audit, distributed, methods, metrics, ops
from fgunlearn.optim import SparseOptimizer, clip_grad_norm_, no_drift
from fgunlearn.perturb import Ascent, Gaussian, Reset, Shrink, Zero, perturb_
from fgunlearn.resuming import Checkpoint
from fgunlearn.selection import RandomK, RandomTopK, Selection, TopK, randomk, score, select, topk
from fgunlearn.spdgan import SPDGAN
from fgunlearn.unlearning import Repair, Result, unlearn

__version__: str = ops.BUILD_INFO["version"]


def build_info() -> dict[str, Any]:
    """What is installed, as a dict.

    "version"; "compiler"; "torch", the one running; "torch_target", the oldest this build loads in; "torch_build", the
    one it was built with; "simd", the instruction set in use; "library", a path; "cuda", whether CUDA kernels were
    built, and "arches", for which architectures; "cuda_library", the path of the loaded CUDA library or None, and
    "cuda_error", why it was not loaded where it was built.
    """
    return dict(ops.BUILD_INFO)


__all__ = [
    "SPDGAN",
    "Ascent",
    "Checkpoint",
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
    "audit",
    "build_info",
    "clip_grad_norm_",
    "distributed",
    "methods",
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
