"""Seconds that selection and repair take at the least: operations and bytes over the rates at which they can go.

A forward pass over t tokens takes 2 n t operations and a backward pass 4 n t, half of them for the gradients of
activations and half for those of weights (Kaplan et al., "Scaling laws for neural language models", arXiv 2001.08361,
section 2.1; attention's own t^2 is left out); recomputing activations adds another 2 n t. A pass is never faster than
memory either: weights are read forwards and backwards, gradients written, 3 n b bytes. Sharded, each device works on
its own batch, and beside that receives all weights twice and sends all gradients once. No run reaches the rates of a
datasheet: give measured ones for a guess.
"""

from __future__ import annotations

from dataclasses import dataclass

from fgunlearn.planning.model import ModelSize
from fgunlearn.planning.rates import Rates
from fgunlearn.planning.setting import STATES, Setting, share_of
from fgunlearn.scoring import FUSED_KINDS

SECTOR = 32
"""Bytes that memory moves for one coordinate, at the least."""

PASSES = 2
"""Readings of the data that streaming selection takes where scores are spread: one counts, one collects."""


@dataclass(frozen=True)
class Work:
    """What is to be done on one device.

    Attributes:
        flops: operations of forward and backward passes.
        passes: how many forward and backward passes that is, in units of a full one over a batch.
        pass_bytes: that those passes move in memory.
        bytes: that is moved besides.
        sent: bytes that cross the link.
    """

    flops: float
    passes: float
    pass_bytes: float
    bytes: float
    sent: float

    def seconds(self, rates: Rates) -> float | None:
        """At the least; None where a rate is unknown. Without a link's rate, what it carries costs nothing."""
        if rates.flops is None or rates.bandwidth is None:
            return None
        passes = max(self.flops / rates.flops, self.pass_bytes / rates.bandwidth)
        linked = self.sent / rates.link if rates.link is not None else 0.0
        # Sending can hide behind computing; what else is moved comes after it.
        return max(passes, linked) + self.bytes / rates.bandwidth


def select_dense(model: ModelSize, setting: Setting) -> Work:
    """One pass per batch, twice as many for "fisher_ratio" (as many batches of remaining data), and the ranking.

    Each batch's gradients are read and its sums read and written. By "grad", "abs_grad" and "fisher" the last one's
    pass ranks as well; else, or sharded, the scores are read once more. Indices are written.
    """
    n, k, w = share_of(model, setting)
    s = model.sum_itemsize
    batches = setting.batches * setting.sums_per_coordinate
    apart = setting.devices > 1 or setting.score not in FUSED_KINDS
    moved = batches * n * (model.itemsize + 2 * s) + (n * s if apart else 0) + k * w
    return _work(model, setting, float(batches), moved)


def groups(model: ModelSize, setting: Setting) -> int:
    """G, how many groups of parameters streaming selection of several batches goes through one after another.

    As many as the sums fill the budget; a few more where tensors don't fill a group.
    """
    n, _, _ = share_of(model, setting)
    return -(-n * model.sum_itemsize * setting.sums_per_coordinate // setting.budget(model))


def readings(model: ModelSize, setting: Setting) -> float:
    """How many full passes per batch streaming selection takes.

    One batch: ``PASSES``. More: per reading G forward passes, each with a backward pass down to its group (on average
    (G + 1) / 2 G of the activations' gradients) and with that group's gradients of weights: 2 G + 2 (G + 1) / 2 + 2 =
    3 (G + 1) of the 6 n t of a full pass (recomputing, 4 (G + 1) of 8). Readings: ``PASSES``, or one where one group
    holds everything. "fisher_ratio" reads the remaining data as often, and once more for its mean if G > 1.

    Sharded, a backward pass is taken whole, whatever is wanted of it: G full passes per reading.
    """
    if setting.one_batch:
        return PASSES
    number = groups(model, setting)
    return _times(number, setting) * (number if setting.devices > 1 else (number + 1) / 2)


def _times(number: int, setting: Setting) -> int:
    """How often all groups are gone through, and so each coordinate's gradients added up."""
    if setting.sums_per_coordinate == 2:
        return 2 if number == 1 else 2 * PASSES + 1
    return 1 if number == 1 else PASSES


def select_streaming(model: ModelSize, setting: Setting) -> Work:
    """:func:`readings` passes per batch, in which each gradient is read once more.

    Of one batch the scores are made in memory that a cache may hold. Sums of several are read and written.
    """
    n, k, w = share_of(model, setting)
    passes = readings(model, setting) * setting.batches
    if setting.one_batch:
        moved = passes * n * model.itemsize
    else:
        times = _times(groups(model, setting), setting) * setting.batches
        moved = times * n * (model.itemsize + 2 * model.sum_itemsize) + PASSES * n * model.sum_itemsize
    return _work(model, setting, passes, moved + k * w)


def repair(model: ModelSize, setting: Setting) -> Work:
    """A pass, k gradients gathered, and a step on k coordinates: indices, states, and the sectors they lie in."""
    _, k, w = share_of(model, setting)
    gather = k * (w + model.itemsize + SECTOR)
    step = k * (w + model.itemsize + 2 * SECTOR + 2 * STATES[setting.optimizer] * model.sum_itemsize)
    return _work(model, setting, 1.0, gather + step)


def adamw(model: ModelSize, setting: Setting) -> Work:
    """A pass, and a dense step: gradients read, parameters and two states read and written, all in one dtype."""
    n, _, _ = share_of(model, setting)
    return _work(model, setting, 1.0, 7 * n * model.itemsize)


def adamw_mixed(model: ModelSize, setting: Setting) -> Work:
    """The same with float32 masters and states: they are read and written, the parameters written."""
    n, _, _ = share_of(model, setting)
    return _work(model, setting, 1.0, n * (2 * model.itemsize + 2 * 3 * 4))


def _work(model: ModelSize, setting: Setting, passes: float, moved: float) -> Work:
    n, b = model.parameters, model.itemsize
    away = (setting.devices - 1) / setting.devices
    return Work(
        flops=passes * (8 if setting.recompute else 6) * n * setting.tokens,
        passes=passes,
        pass_bytes=passes * 3 * n * b,
        bytes=moved,
        sent=passes * 3 * n * b * away,
    )
