"""Resuming: what a call that was killed needs in order to go on bit for bit as if nothing had happened."""

from fgunlearn.resuming.checkpoint import Checkpoint

__all__ = ["Checkpoint"]
