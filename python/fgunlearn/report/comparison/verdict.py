"""What came out of a scenario, in a sentence or two and a card for each side."""

from __future__ import annotations

from dataclasses import dataclass

from fgunlearn.report.comparison.readings import ACCELERATION_LIMIT, OTHERS, OURS, PARTS, Model, Scenario
from fgunlearn.report.comparison.wording import PLUS_MINUS, POINTS, TIMES, decimal, tick, times

AT_LEAST, AT_MOST = "\N{GREATER-THAN OR EQUAL TO}", "\N{LESS-THAN OR EQUAL TO}"


@dataclass(frozen=True)
class Check:
    """A figure beside its limit; ``kept`` is None where there is no verdict."""

    name: str
    value: str
    limit: str
    kept: bool | None


@dataclass(frozen=True)
class Card:
    """The best method of a side."""

    side: str
    group: str
    name: str
    fits: bool
    checks: tuple[Check, ...]


def sentences(scenario: Scenario) -> list[str]:
    """Which of our methods is best and whether that is good enough, how the best other does, what chance makes."""
    said = []
    for side, model, any_fits in (
        ("of ours", scenario.best_ours, _any_fits(scenario, OURS)),
        ("of the others", scenario.best_others, _any_fits(scenario, OTHERS)),
    ):
        if model is None:
            said.append(f"There is no figure of any {side}.")
            continue
        gap, speed = model.stat("average_gap"), model.stat("acceleration")
        about = [f"an average gap of {decimal(gap.mean, 2)} points"] if gap else []
        about += [f"{times(speed.mean)} the speed of retraining"] if speed else []
        about_it = " and ".join(about)
        if not model.missed and model.missed is not None:
            said.append(f"Best {side}: {model.name} keeps to every limit" + (f", with {about_it}." if about else "."))
        else:
            missed = f"; it misses {', '.join(model.missed)}" if model.missed else ""
            none = "" if any_fits else f"None {side} keeps to every limit. "
            said.append(f"{none}The nearest, {model.name}, has {about_it or 'no gap measured'}{missed}.")
    again = next((m for m in scenario.models if m.method == "retrain" and m.failed is None), None)
    chance = None if again is None else again.stat("average_gap")
    if chance is not None:
        said.append(
            f"Retraining once more with other random numbers has an average gap of {decimal(chance.mean, 2)} points: "
            "a difference smaller than that may be chance."
        )
    return said


def _any_fits(scenario: Scenario, group: str) -> bool:
    return any(model.group == group and model.missed == () and model.name == model.method for model in scenario.models)


def cards(scenario: Scenario) -> list[Card]:
    """A card for the best of our methods, and one for the best of the others."""
    return [
        Card(side, group, model.name, model.missed == (), _checks(scenario, model))
        for side, group, model in (
            ("Best of ours", OURS, scenario.best_ours),
            ("Best of the others", OTHERS, scenario.best_others),
        )
        if model is not None
    ]


def _checks(scenario: Scenario, model: Model) -> tuple[Check, ...]:
    met, limits = model.summary.get("met"), scenario.limits
    kept = met if isinstance(met, dict) else {}
    checks = []
    if (gap := model.stat("average_gap")) is not None:
        text = f"{decimal(gap.mean, 2)} points"
        checks.append(Check("average gap", text, _at_most(limits.get("average gap")), kept.get("average gap")))
    limit = limits.get("accuracy gap")
    for part, label in PARTS.items():
        if (gap := model.stat(f"gap_{part}")) is not None:
            size = model.stat("gap_sizes", part) or gap
            text = (
                f"{decimal(POINTS * gap.mean, 1, signed=True)} points, mean size {decimal(POINTS * abs(size.mean), 1)}"
            )
            is_kept = None if limit is None else abs(size.mean) <= limit + 1e-12
            checks.append(Check(f"accuracy gap, {label}", text, _within(limit, POINTS), is_kept))
    if (gap := model.stat("gap_mia")) is not None:
        size = model.stat("gap_sizes", "mia") or gap
        text = f"{decimal(gap.mean, 3, signed=True)}, mean size {decimal(abs(size.mean), 3)}"
        checks.append(Check("MIA AUC gap", text, _within(limits.get("MIA gap")), kept.get("MIA gap")))
    if (tow := model.stat("tug_of_war")) is not None:
        least = limits.get("tug of war")
        text = "" if least is None else f"{AT_LEAST} {tick(least)}"
        checks.append(Check("tug of war", decimal(tow.mean, 3), text, kept.get("tug of war")))
    if (speed := model.stat("acceleration")) is not None:
        text = f"{AT_LEAST} {tick(ACCELERATION_LIMIT)}{TIMES}"
        text = f"{text} wished for, {'reached' if speed.mean >= ACCELERATION_LIMIT else 'not reached'}"
        checks.append(Check("acceleration", times(speed.mean), text, None))
    return tuple(checks)


def _at_most(limit: float | None) -> str:
    return "" if limit is None else f"{AT_MOST} {tick(limit)}"


def _within(limit: float | None, scale: float = 1.0) -> str:
    return "" if limit is None else f"within {PLUS_MINUS}{tick(limit * scale)}"
