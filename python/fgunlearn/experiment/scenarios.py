"""What is to be forgotten: a random part, a class, or samples with wrong labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from fgunlearn.experiment.data import Samples, Split

ScenarioName = Literal["random", "class", "mislabelled"]
SCENARIOS: tuple[ScenarioName, ...] = get_args(ScenarioName)
FORGET_SHARE = 0.1

TITLES: dict[ScenarioName, str] = {
    "random": "a random 10% of the training data",
    "class": "one class",
    "mislabelled": "the 10% of the training data with wrong labels",
}


@dataclass(frozen=True)
class Task:
    """One deletion request: the source model is trained on ``train``, which is ``forget`` and ``retain`` together.

    ``test`` is what D_t stands for: all test samples, or for a forgotten class those of the other classes, since the
    retrained model can't know that one. ``like_forget`` is the test data of the forget data's classes: what membership
    inference compares the forget data with.
    """

    train: Samples
    forget: Samples
    retain: Samples
    heldout: Samples
    test: Samples
    like_forget: Samples


def make_task(data: Split, scenario: ScenarioName, seed: int) -> Task:
    """The task of a scenario, a function of the split and the seed.

    - random: a uniform 10% of the training samples.
    - class: all training samples of class (3 * seed + 1) mod the number of classes.
    - mislabelled: a uniform 10%, each with a wrong label, uniform among the others; the source is trained on those labels,
      and D_u keeps them.

    Raises:
        ValueError: an unknown scenario.
    """
    if scenario not in SCENARIOS:
        raise ValueError(f"scenario must be one of {', '.join(map(repr, SCENARIOS))}, got {scenario!r}")
    train, test = data.train, data.test
    labels = train.labels
    classes = int(labels.max()) + 1
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1))
    chosen = torch.zeros(len(train), dtype=torch.bool)
    if scenario == "class":
        forgotten = (3 * seed + 1) % classes
        chosen = labels == forgotten
        same = test.labels == forgotten
        like_forget, test = test.take(same), test.take(~same)
    else:
        chosen[torch.randperm(len(train), generator=generator)[: round(FORGET_SHARE * len(train))]] = True
        like_forget = test
    if scenario == "mislabelled":
        shift = torch.randint(1, classes, labels.shape, generator=generator)
        train = train.relabelled(torch.where(chosen, (labels + shift) % classes, labels))
    return Task(train, train.take(chosen), train.take(~chosen), data.heldout, test, like_forget)
