"""Choosing the coordinates that unlearning may change: scores, strategies, selections."""

from fgunlearn.scoring import ScoreKind
from fgunlearn.selection.by_channel import Pool
from fgunlearn.selection.channels import Channels, channels_of
from fgunlearn.selection.choose import select
from fgunlearn.selection.scores import score
from fgunlearn.selection.selection import Selection
from fgunlearn.selection.strategies import RandomK, RandomTopK, Scope, Strategy, TopK, randomk, topk

__all__ = [
    "Channels",
    "Pool",
    "RandomK",
    "RandomTopK",
    "Scope",
    "ScoreKind",
    "Selection",
    "Strategy",
    "TopK",
    "channels_of",
    "randomk",
    "score",
    "select",
    "topk",
]
