"""Figures of an SPD-GAN: what it does to samples, and how its training went."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fgunlearn.report.drawing import BLUE, GREEN, GREY, ORANGE, SERIES, drawing
from fgunlearn.spdgan.fit import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_SHOWN = 12
"""Samples that a figure has columns for."""

_CELL = 1.15  # inches, of an image


@dataclass(frozen=True)
class _Scales:
    """Of the samples, low to high, and of the difference, -reach to reach, in units of the data."""

    low: float
    high: float
    amplify: float
    reach: float


def samples_figure(before: Tensor, after: Tensor, *, amplify: float | None = None) -> Figure:
    """Samples as they are, perturbed, and what was changed, one column each.

    Images with one channel are grey, with three in colour, with two or four the grey mean of the channels. Their
    difference is red where a value grew and blue where it fell; with several channels it is that of the channel that
    changed most. Series are drawn as lines, and vectors as bars.

    The difference is drawn ``amplify`` times as strong as the samples, and the figure says so: where the samples'
    colours or axes span R, those of the difference span R / amplify, with 0 in the middle, in units of the data.

    Args:
        before: float (samples, \\*shape), 1 to 12 samples: images (channels, h, w), series (channels, length) or
            vectors (features,).
        after: the same perturbed.
        amplify: > 0; None for the largest of 1, 2, 5, 10, 20, ... that shows the largest change unclipped, 1 where none
            does.

    Raises:
        ImportError: there is no matplotlib.
        ValueError: shapes that differ or are none of those, no sample or more than 12, NaN or infinity, amplify <= 0.
    """
    _check(before, after, amplify)
    was, now = (part.detach().double().cpu() for part in (before, after))
    low, high = (float(value) for value in torch.stack([was, now]).aminmax())
    span = high - low or 1.0
    factor = _amplification(span, float((now - was).abs().max())) if amplify is None else float(amplify)
    scales = _Scales(low, low + span, factor, 0.5 * span / factor)
    with drawing():
        from matplotlib.figure import Figure

        figure = Figure(layout=_layout())
        axes = figure.subplots(3, len(was), squeeze=False, sharex=True, sharey="row")
        if was.dim() == 4:
            _draw_images(figure, axes, was, now, scales)
        else:
            _draw_curves(figure, axes, was, now, scales)
        for row, label in zip(axes, ("as it is", "perturbed", f"difference\namplified {factor:g}x"), strict=True):
            row[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8.0)
    return figure


def training_figure(history: History) -> Figure:
    """The shift, the magnitude and the losses over the steps of a training, and where it stopped.

    Raises:
        ImportError: there is no matplotlib.
        ValueError: a history without a step.
    """
    steps = len(history.shift)
    if steps == 0:
        raise ValueError("history must hold a step or more, got none: was the SPDGAN fitted?")
    with drawing():
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(7.0, 6.6), layout=_layout())
        shift, magnitude, losses = figure.subplots(3, 1, sharex=True)
        at = np.arange(1, steps + 1)
        single = "." if steps == 1 else None  # a line through one point is none
        shift.plot(at, history.shift, color=BLUE, alpha=0.45, marker=single, label="a batch, per step")
        shift.plot(
            history.heldout_step, history.heldout_shift, color=ORANGE, marker="o", markersize=4, label="held-out data"
        )
        if history.kept_step:
            kept = history.heldout_shift[history.heldout_step.index(history.kept_step)]
            shift.plot(
                [history.kept_step], [kept], "o", color="none", markeredgecolor=GREY, markersize=10, label="kept"
            )
        shift.set_ylabel("shift of the features\n(squared MMD)")
        magnitude.plot(at, history.magnitude, color=BLUE, marker=single)
        magnitude.set_ylabel("rms of the change\n(share of the data's range)")
        magnitude.set_ylim(bottom=0.0)
        losses.plot(at, history.generator_loss, color=BLUE, marker=single, label="generator")
        if history.critic_loss:
            losses.plot(at, history.critic_loss, color=GREEN, marker=single, label="critic")
        losses.set_ylabel("loss")
        losses.set_xlabel("training step")
        losses.xaxis.set_major_locator(MaxNLocator(integer=True))
        losses.set_xlim(0, 1.03 * steps)
        for panel in (shift, magnitude, losses):
            panel.grid(alpha=0.25)
            panel.axvline(steps, color=GREY, linestyle="--", linewidth=1.0)
        for panel in (shift, losses):
            panel.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False, borderaxespad=0.2)
        ended = "levelled off: stopped at" if history.stopped else "not levelled off: ended at"
        shift.set_title(f"{ended} step {steps}", loc="right", fontsize="medium", color=GREY)
    return figure


def _layout() -> Any:
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)


def _check(before: Tensor, after: Tensor, amplify: float | None) -> None:
    if before.shape != after.shape or before.dim() not in (2, 3, 4):
        raise ValueError(
            "before and after must be of one shape, (samples, features), (samples, channels, length) or "
            f"(samples, channels, h, w), got {tuple(before.shape)} and {tuple(after.shape)}"
        )
    if not 1 <= len(before) <= MOST_SHOWN:
        raise ValueError(f"before must hold 1 to {MOST_SHOWN} samples, got {len(before)}")
    if before.numel() == 0:
        raise ValueError(f"before must hold values, got shape {tuple(before.shape)}")
    for name, part in (("before", before), ("after", after)):
        if not bool(part.isfinite().all()):
            raise ValueError(f"{name} holds NaN or infinity")
    if amplify is not None and not (math.isfinite(amplify) and amplify > 0):
        raise ValueError(f"amplify must be finite and > 0, got {amplify}")


def _amplification(span: float, largest: float) -> float:
    """The largest of 1, 2, 5, 10, ... at which a change of ``largest`` is within half of the span; 1 without one."""
    limit = 0.5 * span / largest if largest > 0 else 1.0
    if limit < 1.0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(limit))
    return max(step * power for step in (1, 2, 5) if step == 1 or step * power <= limit)


def _draw_images(figure: Figure, axes: Any, was: Tensor, now: Tensor, scales: _Scales) -> None:
    count, channels, h, w = was.shape
    cell = _CELL * min(max(h / w, 0.5), 2.0)
    figure.set_size_inches(max(4.0, count * _CELL + 1.8), 3 * cell + 0.2)
    change = now - was
    # The channel that changed most, with its sign.
    change = change.gather(1, change.abs().argmax(1, keepdim=True))[:, 0]
    for column in range(count):
        for row, images in enumerate((was, now)):
            if channels == 3:
                axes[row, column].imshow(_coloured(images[column], was, now))
            else:
                grey = axes[row, column].imshow(
                    images[column].mean(0).numpy(), cmap="gray", vmin=scales.low, vmax=scales.high
                )
        differences = axes[2, column].imshow(
            change[column].numpy(), cmap="RdBu_r", vmin=-scales.reach, vmax=scales.reach
        )
    for panel in axes.flat:
        panel.set_xticks([])
        panel.set_yticks([])
        for spine in panel.spines.values():
            spine.set(visible=True, color=GREY, linewidth=0.6)
    if channels != 3:
        figure.colorbar(grey, ax=list(axes[:2].flat), label="value" if channels == 1 else "mean of the channels")
    clipped = bool((change.abs() > scales.reach).any())
    bar = figure.colorbar(differences, ax=list(axes[2]), label="change", extend="both" if clipped else "neither")
    marks = (-scales.reach, 0.0, scales.reach)
    bar.set_ticks(marks, labels=[f"{mark:.3g}" for mark in marks])


def _coloured(image: Tensor, was: Tensor, now: Tensor) -> Any:
    """(h, w, 3) in [0, 1]: as it is where all values are, else every channel from its smallest value to its largest."""
    both = torch.cat([was, now])
    if float(both.min()) < 0.0 or float(both.max()) > 1.0:
        low, high = (part[:, None, None] for part in (both.amin((0, 2, 3)), both.amax((0, 2, 3))))
        image = (image - low) / torch.where(high > low, high - low, 1.0)
    return image.permute(1, 2, 0).clamp(0.0, 1.0).numpy()


def _draw_curves(figure: Figure, axes: Any, was: Tensor, now: Tensor, scales: _Scales) -> None:
    count = len(was)
    figure.set_size_inches(count * max(1.6, 6.0 / count) + 1.6, 5.1)
    draw, where = (_bars, "feature") if was.dim() == 2 else (_lines, "position")
    for column in range(count):
        for row, samples in enumerate((was, now, now - was)):
            draw(axes[row, column], samples[column], signed=row == 2)
            axes[row, column].grid(alpha=0.25)
        axes[2, column].axhline(0.0, color=GREY, linewidth=0.8)
        axes[2, column].set_xlabel(where)
        axes[2, column].xaxis.get_major_locator().set_params(integer=True)
    margin = 0.05 * (scales.high - scales.low)
    for row in axes[:2]:
        row[0].set_ylim(scales.low - margin, scales.high + margin)
    axes[2, 0].set_ylim(-scales.reach - margin / scales.amplify, scales.reach + margin / scales.amplify)
    if was.dim() == 3 and was.shape[1] > 1:
        names = [f"channel {i}" for i in range(min(was.shape[1], len(SERIES)))]
        figure.legend(
            axes[0, 0].lines[: len(names)], names, loc="outside upper center", ncols=len(names), frameon=False
        )


def _lines(axes: Axes, series: Tensor, signed: bool) -> None:
    for i, channel in enumerate(series):
        axes.plot(channel.numpy(), color=SERIES[i % len(SERIES)])


def _bars(axes: Axes, vector: Tensor, signed: bool) -> None:
    colours = [ORANGE if signed and value > 0 else BLUE for value in vector.tolist()]
    axes.bar(np.arange(len(vector)), vector.numpy(), color=colours, width=0.9 if len(vector) < 64 else 1.0)
