"""How far the removal went, and at what cost. Each metric is a plain function of models and loaders."""

from fgunlearn.metrics.acceleration import CostModel, acceleration_ratio, calibrate
from fgunlearn.metrics.accuracy import accuracy, sample_losses
from fgunlearn.metrics.forgetting import Forgetting, forgetting_rate, memory_retention_rate
from fgunlearn.metrics.membership import MembershipJudge, membership_auc
from fgunlearn.metrics.similarity import Similarity, similarity

__all__ = [
    "CostModel",
    "Forgetting",
    "MembershipJudge",
    "Similarity",
    "acceleration_ratio",
    "accuracy",
    "calibrate",
    "forgetting_rate",
    "membership_auc",
    "memory_retention_rate",
    "sample_losses",
    "similarity",
]
