"""What is to be forgotten: a random part, a class, samples with wrong labels, or samples that someone names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

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


def make(name: str, split: Split, seed: int, share: float = FORGET_SHARE, label: int | None = None) -> Scenario:
    """The scenario of that name, a function of the split and the seed.

    - random: a uniform ``share`` of the training samples, 10% by default.
    - class: all training samples of class ``label``, or if that is None of (3 * seed + 1) mod the number of classes.
    - mislabel: a uniform ``share``, each with a wrong label, uniform among the others; the source is trained on those
      labels, and D_u keeps them.

    Raises:
        ValueError: an unknown scenario, a class that the data does not have, nothing to forget or nothing to keep.
    """
    if name not in NAMES:
        raise ValueError(f"scenario must be one of {', '.join(map(repr, NAMES))}, got {name!r}")
    train, test = split.train, split.test
    labels = train.labels
    classes = split.classes
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1))
    chosen = torch.zeros(len(train), dtype=torch.bool)
    if name == "class":
        forgotten = (3 * seed + 1) % classes if label is None else label
        if not 0 <= forgotten < classes:
            raise ValueError(f"the data has the classes 0 to {classes - 1}, and no class {forgotten}")
        chosen = labels == forgotten
        same = test.labels == forgotten
        like_forget, test = test.take(same), test.take(~same)
    else:
        chosen[torch.randperm(len(train), generator=generator)[: round(share * len(train))]] = True
        like_forget = test
    if name == "mislabel":
        shift = torch.randint(1, classes, labels.shape, generator=generator)
        train = train.relabelled(torch.where(chosen, (labels + shift) % classes, labels))
    return _parted(train, chosen, split, test, like_forget)


def forgetting(split: Split, rows: Tensor) -> Scenario:
    """The scenario in which someone names what is to be forgotten.

    Args:
        split: with those rows among its training samples, see :func:`fgunlearn.experiment.data.split`.
        rows: of the data, int64, without repeats.

    Raises:
        ValueError: a row that is no training sample; nothing to forget or nothing to keep.
    """
    chosen = torch.isin(split.rows, rows)
    if int(chosen.sum()) != len(rows):
        strange = rows[~torch.isin(rows, split.rows)]
        raise ValueError(
            f"row {int(strange[0])} is none of the training samples" if len(strange) else "a row is repeated"
        )
    return _parted(split.train, chosen, split, split.test, split.test)


def _parted(train: Samples, chosen: Tensor, split: Split, test: Samples, like_forget: Samples) -> Scenario:
    count = int(chosen.sum())
    if count in (0, len(train)):
        raise ValueError(f"{count} of {len(train)} training samples are to be forgotten: leave some, and forget some")
    for part, samples in (("test samples", test), ("test samples of the forgotten class", like_forget)):
        if len(samples) == 0:
            raise ValueError(f"there are no {part} to measure on")
    return Scenario(train, train.take(chosen), train.take(~chosen), split.heldout, test, like_forget)
