"""What the study asks to be forgotten: where the source model overfits the forget data, and where it does not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fgunlearn.experiment import scenarios
from fgunlearn.experiment.data import Split
from fgunlearn.experiment.scenarios import Scenario


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One situation of the study.

    Attributes:
        name: of the setting.
        title: for tables and plots.
        scenario: see :func:`fgunlearn.experiment.scenarios.make`.
        share: of the training samples that are forgotten.
        train: train on this many samples only, drawn uniformly; None for all. Test and held-out data stay whole.
    """

    name: str
    title: str
    scenario: str
    share: float
    train: int | None = None


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting(name="random", title="random 10%, all training data", scenario="random", share=0.1),
        Setting(name="few", title="half of 250 training samples", scenario="random", share=0.5, train=250),
        Setting(name="mislabel", title="10% mislabelled", scenario="mislabel", share=0.1),
    )
}


def scenario_of(setting: Setting, split: Split, seed: int) -> Scenario:
    """The setting as a scenario, a function of the split and the seed."""
    if setting.train is not None and setting.train < len(split.train):
        generator = torch.Generator().manual_seed(2_000_003 * (seed + 1))
        kept = torch.randperm(len(split.train), generator=generator)[: setting.train]
        split = replace(split, train=split.train.take(kept))
    return scenarios.make(setting.scenario, split, seed, setting.share)
