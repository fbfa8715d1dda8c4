"""Resuming: what a call that was killed needs in order to go on bit for bit as if nothing had happened."""

from fgunlearn.resuming.checkpoint import Checkpoint
from fgunlearn.resuming.errors import CheckpointError

__all__ = ["Checkpoint", "CheckpointError"]
