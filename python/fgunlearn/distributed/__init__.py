"""Selecting, perturbing and training over the processes of ``torch.distributed``."""

from fgunlearn.distributed.layout import Layout, layout_of
from fgunlearn.distributed.sharded import ShardedSelection

__all__ = ["Layout", "ShardedSelection", "layout_of"]
