"""fgunlearn: removes chosen training data from a trained model by perturbing and repairing a few of its parameters.

Where torch has been imported before this package, everything is imported with it. Otherwise a name is imported when it
is first used, so that what needs no torch, as audit records do, does without: importing torch takes seconds. Then
``torch.ops.fgunlearn`` comes with the first use of a name that needs torch; ``import fgunlearn.ops`` is enough.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from fgunlearn import _library

if TYPE_CHECKING:
    from fgunlearn import audit, distributed, methods, metrics, ops, patch
    from fgunlearn.optim import SparseOptimizer, clip_grad_norm_, no_drift
    from fgunlearn.perturb import Ascent, Gaussian, Reset, Shrink, Zero, perturb_
    from fgunlearn.resuming import Checkpoint
    from fgunlearn.selection import RandomK, RandomTopK, Selection, TopK, randomk, score, select, topk
    from fgunlearn.spdgan import SPDGAN
    from fgunlearn.unlearning import Repair, Result
    from fgunlearn.unlearning.unlearn import unlearn

__version__: str = _library.host().build_info()["version"]

_HOMES = {
    **dict.fromkeys(("SparseOptimizer", "clip_grad_norm_", "no_drift"), "optim"),
    **dict.fromkeys(("Ascent", "Gaussian", "Reset", "Shrink", "Zero", "perturb_"), "perturb"),
    **dict.fromkeys(("RandomK", "RandomTopK", "Selection", "TopK", "randomk", "score", "select", "topk"), "selection"),
    "Checkpoint": "resuming",
    "SPDGAN": "spdgan",
    **dict.fromkeys(("Repair", "Result", "unlearn"), "unlearning"),
}
"""The module of every class and function. No module of this package may have such a name: importing it, anywhere, would
put it in the function's place."""

_MODULES = (
    *("audit", "distributed", "methods", "metrics", "ops", "patch"),
    # Not for users, but all were there after ``import fgunlearn`` when that imported everything.
    *("arguments", "batches", "features", "files", "initial", "optim", "parameters", "perturb", "progress", "seeding"),
    *("selection", "spdgan", "unlearning"),
)

if not TYPE_CHECKING:  # a type checker would take any name for one of these

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        elif name in _MODULES:
            found = importlib.import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def build_info() -> dict[str, Any]:
    """What is installed, as a dict. Imports torch.

    "version"; "compiler"; "torch", the one running; "torch_target", the oldest this build loads in; "torch_build", the
    one it was built with; "simd", the instruction set in use; "library", a path; "cuda", whether CUDA kernels were
    built, and "arches", for which architectures; "cuda_library", the path of the loaded CUDA library or None, and
    "cuda_error", why it was not loaded where it was built.
    """
    from fgunlearn import ops

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
    "patch",
    "perturb_",
    "randomk",
    "score",
    "select",
    "topk",
    "unlearn",
]

if sys.modules.get("torch") is not None:  # now, and not in the midst of what someone may be measuring
    for _name in __all__:
        getattr(sys.modules[__name__], _name)
