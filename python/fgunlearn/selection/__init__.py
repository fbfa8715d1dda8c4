"""Choosing the coordinates that unlearning may change: scores, strategies, selections."""

from fgunlearn.selection.choose import select
from fgunlearn.selection.scores import score
from fgunlearn.selection.selection import Selection
from fgunlearn.selection.strategies import RandomK, RandomTopK, Scope, ScoreKind, Strategy, TopK, randomk, topk

__all__ = [
    "RandomK",
    "RandomTopK",
    "Scope",
    "ScoreKind",
    "Selection",
    "Strategy",
    "TopK",
    "randomk",
    "score",
    "select",
    "topk",
]
