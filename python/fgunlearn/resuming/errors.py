"""What is wrong with a checkpoint, told from what is wrong with the work that it is of."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint that can't be gone on from or written: damaged, of another call, or had by another call."""
