"""The compiled operations, one module each: schema in C++, fake and autograd here, and a plain-PyTorch ``_ref``.

A ``*_ref`` function is the specification of its op: tests hold the kernels to it.
"""

from fgunlearn import _library

BUILD_INFO = _library.load()

from fgunlearn.ops.bracket import bracket_histogram, bracket_split  # noqa: E402
from fgunlearn.ops.gather import sparse_gather, sparse_scatter_  # noqa: E402
from fgunlearn.ops.perturb import rms, sparse_ascent_, sparse_perturb_  # noqa: E402
from fgunlearn.ops.score import count_nonfinite, score_accumulate_, score_accumulate_topk_  # noqa: E402
from fgunlearn.ops.select import randomk_select, topk_select, topk_select_each, topk_select_packed  # noqa: E402
from fgunlearn.ops.sparse_add import sparse_add, sparse_take  # noqa: E402
from fgunlearn.ops.spd_perturb import spd_perturb  # noqa: E402
from fgunlearn.ops.update import sparse_adam_, sparse_sgd_  # noqa: E402

__all__ = [
    "BUILD_INFO",
    "bracket_histogram",
    "bracket_split",
    "count_nonfinite",
    "randomk_select",
    "rms",
    "score_accumulate_",
    "score_accumulate_topk_",
    "sparse_adam_",
    "sparse_add",
    "sparse_ascent_",
    "sparse_gather",
    "sparse_perturb_",
    "sparse_scatter_",
    "sparse_sgd_",
    "sparse_take",
    "spd_perturb",
    "topk_select",
    "topk_select_each",
    "topk_select_packed",
]
