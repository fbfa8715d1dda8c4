"""Unlearning: perturb the selected coordinates, then repair them on the remaining data."""

from fgunlearn.unlearning.repair import Repair
from fgunlearn.unlearning.unlearn import Result, unlearn

__all__ = ["Repair", "Result", "unlearn"]
