"""The figures of a scenario, each with its caption: what is shown, and what good looks like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fgunlearn.report.comparison import curves, rows, scatter
from fgunlearn.report.comparison.readings import OTHERS, OURS, RETRAIN, Scenario
from fgunlearn.report.comparison.svg import Drawing

WIDE, NARROW = 960.0, 350.0
"""Widths of figures that fill the page, px; the style shows one of the two."""

Legend = tuple[str, str, str]
"""Shape, style and name."""


@dataclass(frozen=True)
class Figure:
    """A figure of the page. ``legend`` holds a swatch (markup) and a name for each kind of mark."""

    name: str
    heading: str
    shows: str
    good: str
    drawings: tuple[str, ...]
    legend: tuple[tuple[str, str], ...] = ()


_GROUPS: tuple[Legend, ...] = (
    ("circle", f"mark {OURS}", "ours"),
    ("diamond", f"mark {OTHERS}", "others"),
    ("cross", "mark reference", "source and retrained models"),
)
_LOSSES: tuple[Legend, ...] = (("circle", "mark retain", "retain data"), ("diamond", "mark forget", "forget data"))
_PARTS: tuple[Legend, ...] = (("square", "mark forget", "forget data"), ("square", "mark unseen", "never-seen data"))
_ROLES: tuple[Legend, ...] = tuple(("square", f"bar {role}", role) for role in rows.ROLES)


def of(scenario: Scenario, prefix: str) -> list[Figure]:
    """The figures of a scenario that there is data for.

    Args:
        prefix: of the ids in the page; letters, digits and hyphens.
    """
    first = f"seed {scenario.seeds[0]}" if scenario.seeds else "the first seed"
    made = [
        Figure(
            "quality",
            "Quality against acceleration",
            "How far every method is from retraining, and how much faster than it; both axes are logarithmic. Whiskers "
            "are a standard deviation over the seeds. Small faint marks are the entries that vary one option. A "
            "method above the dotted line is further from the retrained model than one that did nothing.",
            "low and to the right, inside the shaded corner, which keeps to both limits. Where retraining again "
            "lies is what chance makes of the gap.",
            _both(scatter.quality, scenario, f"{prefix}-quality"),
            _swatches((*_GROUPS[:2], ("cross", "mark reference", "retraining again"))),
        ),
        Figure(
            "accuracy",
            "Accuracy by split",
            "Accuracy on the forget data D_u, the retain data D_r and the test data D_t, mean and standard deviation "
            "over the seeds. The line is the retrained model's, the shade what the limit allows.",
            "on the line in all three columns. Less on D_u than the retrained model is not better: it is forgetting "
            "that shows.",
            _both(rows.accuracy, scenario, f"{prefix}-accuracy"),
            _swatches(_GROUPS),
        ),
        Figure(
            "scores",
            "What membership inference sees",
            "How sure each model is of the true class, for forget data and for never-seen data of the same classes. "
            f"From {first}; the AUC is the loss attack's with its 95% interval over samples. Ends gather what "
            "is beyond.",
            "the two histograms of M_u lie on each other as those of M_r do. On M_s the forget data lies further to "
            "the right: that is the trace that has to go.",
            tuple(curves.scores(scenario, f"{prefix}-scores")),
            _swatches(_PARTS),
        ),
        Figure(
            "membership",
            "Membership inference, every seed",
            "AUC of the loss attack, forget against never-seen data: a mark and a 95% bootstrap interval over samples "
            "for each seed. The line is the retrained model's mean, the shade what the limit allows, the dashes 0.5.",
            "at the retrained model's line. Wide intervals mean few forget samples: then a small gap proves little.",
            _both(rows.membership, scenario, f"{prefix}-membership"),
            _swatches(_GROUPS),
        ),
        _sweep(
            scenario,
            "ratio",
            f"{prefix}-ratio",
            "K sweep",
            "Average gap and acceleration over the share of the parameters that is selected.",
            "a wide flat valley of the gap below the limit: the method does not hang on the right choice of k. "
            "Acceleration shows what a smaller k saves.",
        ),
        _sweep(
            scenario,
            "top_share",
            f"{prefix}-share",
            "Top share sweep",
            "Average gap and acceleration of random top-k over the part of the selection that is taken by score; 0 is "
            "random-k, 1 is top-k.",
            "a lowest point inside: then a mixture is better than either of its parts. A flat line means that "
            "the score does not matter here.",
        ),
        Figure(
            "density",
            "Layer density of the selection",
            "The selected share of each parameter tensor in the model's order, mean over the seeds"
            + (f"; the {rows.MOST_TENSORS} densest." if _is_cut(scenario) else "."),
            "what the strategy promises: random-k equally dense everywhere; top-k dense where the forget data left its "
            "mark, and not all in one layer.",
            _both(rows.density, scenario, f"{prefix}-density"),
            _swatches(rows.selection_legend(scenario)),
        ),
        Figure(
            "learning",
            "Learning curves of the repair",
            "Loss in every epoch of unlearning, a line for each seed. Forget points end where the forget "
            "term ends. Losses are as a method minimises them: that of ascent lies below 0.",
            "the retain loss falls and has levelled off at the end, while the loss on the forget data does not "
            "run away.",
            tuple(curves.learning(scenario, f"{prefix}-learning")),
            _swatches(_LOSSES),
        ),
        Figure(
            "phases",
            "Where the time goes",
            "Seconds of each phase of unlearning, mean over the seeds; point at a bar for the phase's own name. "
            "The line or the arrow is retraining.",
            "short bars, mostly training: what is spent on selecting and preparing is small beside it, and all of it "
            "small beside retraining.",
            _both(rows.phases, scenario, f"{prefix}-phases"),
            _swatches(_used_roles(scenario)),
        ),
    ]
    return [figure for figure in made if figure.drawings]


def _sweep(scenario: Scenario, option: str, name: str, heading: str, shows: str, good: str) -> Figure:
    drawings = tuple(
        drawing
        for style, width in (("wide", 0.5 * WIDE - 15.0), ("narrow", NARROW))
        for drawing in curves.sweep(scenario, option, f"{name}-{style}", width, style)
    )
    return Figure(
        "k-sweep" if option == "ratio" else "share-sweep",
        heading,
        shows,
        good,
        drawings,
        _swatches(curves.sweep_legend(scenario, option)),
    )


def _both(draw: Callable[[Scenario, str, float, str], str | None], scenario: Scenario, name: str) -> tuple[str, ...]:
    """The drawing for a page and that for a phone."""
    drawn = (draw(scenario, f"{name}-{style}", width, style) for style, width in (("wide", WIDE), ("narrow", NARROW)))
    return tuple(drawing for drawing in drawn if drawing is not None)


def _is_cut(scenario: Scenario) -> bool:
    return any(len(model.summary["density"]) > rows.MOST_TENSORS for model in rows.selections(scenario))


def _used_roles(scenario: Scenario) -> tuple[Legend, ...]:
    """Roles that some phase has."""
    used = {
        rows.role(str(phase))
        for model in scenario.named
        if model.method != RETRAIN
        for run in model.runs
        for phase in run.get("phases") or {}
    }
    return tuple(legend for legend in _ROLES if legend[2] in used)


def _swatches(legend: tuple[Legend, ...] | list[Legend]) -> tuple[tuple[str, str], ...]:
    return tuple((swatch(shape, style), name) for shape, style, name in legend)


def swatch(shape: str, style: str) -> str:
    """A mark for a legend, as markup; it says nothing that its name doesn't."""
    drawing = Drawing(16.0, 14.0, "", "", "")
    drawing.mark(shape, 8.0, 7.0, style, size=4.5)
    mark = drawing.markup().partition("</desc>")[2]
    return f'<svg class="swatch" aria-hidden="true" viewBox="0 0 16 14" width="16" height="14">{mark}'
