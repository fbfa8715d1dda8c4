"""Unlearning: perturb the selected coordinates, then repair them on the remaining data."""

from fgunlearn.unlearning.repair import Repair
from fgunlearn.unlearning.result import Record, Result
from fgunlearn.unlearning.unlearn import unlearn

__all__ = ["Record", "Repair", "Result", "unlearn"]
