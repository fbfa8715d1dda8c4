"""How far the removal went, and at what cost. Each metric is a plain function of models and loaders.

Beside most stands a form that ends in ``_of``, of what is known already: look at every part of the data once with
:class:`Outputs`, and make all figures from that.
"""

from fgunlearn.metrics.acceleration import CostModel, acceleration_ratio, calibrate
from fgunlearn.metrics.accuracy import accuracy, sample_losses
from fgunlearn.metrics.attacks import ATTACKS, Attack, attack_of, mia, mia_of
from fgunlearn.metrics.bootstrap import Interval
from fgunlearn.metrics.degree import UnlearningDegree, unlearning_degree
from fgunlearn.metrics.forgetting import (
    Forgetting,
    forgetting_of,
    forgetting_rate,
    memory_retention_rate,
    retention_of,
)
from fgunlearn.metrics.likelihood import lira_scores, u_lira_scores
from fgunlearn.metrics.membership import MembershipJudge, losses_auc, membership_auc
from fgunlearn.metrics.min_k import min_k_prob
from fgunlearn.metrics.mmd import TwoSampleTest, median_bandwidth, mmd_test, squared_mmd
from fgunlearn.metrics.outputs import Outputs
from fgunlearn.metrics.proportion import proportion
from fgunlearn.metrics.quantization import quantized
from fgunlearn.metrics.reference import (
    AverageGap,
    average_gap,
    average_gap_of,
    nomus,
    nomus_of,
    non_member_share,
    tug_of_war,
    tug_of_war_of,
)
from fgunlearn.metrics.relearning import Relearning, RelearnTime, relearn_time
from fgunlearn.metrics.relearning_check import RelearningCheck, relearning_check
from fgunlearn.metrics.roc_curve import roc
from fgunlearn.metrics.shadow_attacks import lira, u_lira
from fgunlearn.metrics.shadows import ShadowTraining, half_memberships, log_odds_of, train_shadows
from fgunlearn.metrics.similarity import Similarity, similarity

__all__ = [
    "ATTACKS",
    "Attack",
    "AverageGap",
    "CostModel",
    "Forgetting",
    "Interval",
    "MembershipJudge",
    "Outputs",
    "RelearnTime",
    "Relearning",
    "RelearningCheck",
    "ShadowTraining",
    "Similarity",
    "TwoSampleTest",
    "UnlearningDegree",
    "acceleration_ratio",
    "accuracy",
    "attack_of",
    "average_gap",
    "average_gap_of",
    "calibrate",
    "forgetting_of",
    "forgetting_rate",
    "half_memberships",
    "lira",
    "lira_scores",
    "log_odds_of",
    "losses_auc",
    "median_bandwidth",
    "membership_auc",
    "memory_retention_rate",
    "mia",
    "mia_of",
    "min_k_prob",
    "mmd_test",
    "nomus",
    "nomus_of",
    "non_member_share",
    "proportion",
    "quantized",
    "relearn_time",
    "relearning_check",
    "retention_of",
    "roc",
    "sample_losses",
    "similarity",
    "squared_mmd",
    "train_shadows",
    "tug_of_war",
    "tug_of_war_of",
    "u_lira",
    "u_lira_scores",
    "unlearning_degree",
]
