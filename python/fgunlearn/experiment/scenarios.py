"""What is to be forgotten: a random part, a class, or samples with wrong labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from fgunlearn.experiment.data import Samples, Split

Name = Literal["random", "class", "mislabel"]
NAMES: tuple[str, ...] = get_args(Name)
FORGET_SHARE = 0.1


@dataclass(frozen=True)
class Scenario:
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


def make(name: str, split: Split, seed: int, share: float = FORGET_SHARE) -> Scenario:
    """The scenario of that name, a function of the split and the seed.

    - random: a uniform ``share`` of the training samples, 10% by default.
    - class: all training samples of class (3 * seed + 1) mod the number of classes.
    - mislabel: a uniform ``share``, each with a wrong label, uniform among the others; the source is trained on those
      labels, and D_u keeps them.

    Raises:
        ValueError: an unknown scenario.
    """
    if name not in NAMES:
        raise ValueError(f"scenario must be one of {', '.join(map(repr, NAMES))}, got {name!r}")
    train, test = split.train, split.test
    labels = train.labels
    classes = split.classes
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1))
    chosen = torch.zeros(len(train), dtype=torch.bool)
    if name == "class":
        forgotten = (3 * seed + 1) % classes
        chosen = labels == forgotten
        same = test.labels == forgotten
        like_forget, test = test.take(same), test.take(~same)
    else:
        chosen[torch.randperm(len(train), generator=generator)[: round(share * len(train))]] = True
        like_forget = test
    if name == "mislabel":
        shift = torch.randint(1, classes, labels.shape, generator=generator)
        train = train.relabelled(torch.where(chosen, (labels + shift) % classes, labels))
    return Scenario(train, train.take(chosen), train.take(~chosen), split.heldout, test, like_forget)
