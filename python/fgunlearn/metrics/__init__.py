"""How far the removal went, and at what cost. Each metric is a plain function of models and loaders."""

from fgunlearn.metrics.acceleration import CostModel, acceleration_ratio, calibrate
from fgunlearn.metrics.accuracy import accuracy, sample_losses
from fgunlearn.metrics.bootstrap import Interval
from fgunlearn.metrics.degree import UnlearningDegree, unlearning_degree
from fgunlearn.metrics.forgetting import Forgetting, forgetting_rate, memory_retention_rate
from fgunlearn.metrics.membership import MembershipJudge, membership_auc
from fgunlearn.metrics.mmd import TwoSampleTest, median_bandwidth, mmd_test, squared_mmd
from fgunlearn.metrics.similarity import Similarity, similarity

__all__ = [
    "CostModel",
    "Forgetting",
    "Interval",
    "MembershipJudge",
    "Similarity",
    "TwoSampleTest",
    "UnlearningDegree",
    "acceleration_ratio",
    "accuracy",
    "calibrate",
    "forgetting_rate",
    "median_bandwidth",
    "membership_auc",
    "memory_retention_rate",
    "mmd_test",
    "sample_losses",
    "similarity",
    "squared_mmd",
    "unlearning_degree",
]
