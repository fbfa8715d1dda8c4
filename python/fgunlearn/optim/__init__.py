"""Training the selected coordinates and nothing else: the optimizer, clipping, and the proof that the rest stayed."""

from fgunlearn.optim.clipping import clip_grad_norm_
from fgunlearn.optim.drift import no_drift
from fgunlearn.optim.freezing import BackwardSaving
from fgunlearn.optim.sparse import SparseOptimizer

__all__ = ["BackwardSaving", "SparseOptimizer", "clip_grad_norm_", "no_drift"]
