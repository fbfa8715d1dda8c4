"""What came out of a scenario, in a sentence or two and a card for each side."""

from __future__ import annotations

from dataclasses import dataclass

from fgunlearn.report.comparison.readings import ACCELERATION_LIMIT, OURS, OTHERS, PARTS, Model, Scenario
from fgunlearn.report.comparison.wording import POINTS, decimal, significant, times


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
            "smaller differences than that are chance."
        )
    return said


def _any_fits(scenario: Scenario, group: str) -> bool:
    return any(model.group == group and model.missed == () for model in scenario.models)


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

    def add(name: str, value: str | None, limit: str, is_kept: bool | None) -> None:
        if value is not None:
            checks.append(Check(name, value, limit, is_kept))

    gap = model.stat("average_gap")
    limit = limits.get("average gap")
    add("average gap", gap and f"{decimal(gap.mean, 2)} points", _at_most(limit, 1.0), kept.get("average gap"))
    limit = limits.get("accuracy gap")
    for part, label in PARTS.items():
        gap = model.stat(f"gap_{part}")
        is_kept = None if gap is None or limit is None else abs(gap.mean) <= limit + 1e-12
        add(f"accuracy gap, {label}", gap and f"{decimal(POINTS * gap.mean, 1, signed=True)} points",
            _at_most(limit, POINTS, PLUS_OR_MINUS), is_kept)
    gap = model.stat("gap_mia")
    add("MIA AUC gap", gap and decimal(gap.mean, 3, signed=True), _at_most(limits.get("MIA gap"), 1.0, PLUS_OR_MINUS),
        kept.get("MIA gap"))
    tow = model.stat("tug_of_war")
    limit = limits.get("tug of war")
    add("tug of war", tow and decimal(tow.mean, 3), "" if limit is None else f"\u2265 {significant(limit)}",
        kept.get("tug of war"))
    speed = model.stat("acceleration")
    add("acceleration", speed and times(speed.mean), f"\u2265 {times(ACCELERATION_LIMIT)}",
        None if speed is None else speed.mean >= ACCELERATION_LIMIT)
    return tuple(checks)


PLUS_OR_MINUS = "\u00b1"


def _at_most(limit: float | None, scale: float, sign: str = "") -> str:
    if limit is None:
        return ""
    return f"within {sign}{significant(limit * scale)}" if sign else f"\u2264 {significant(limit * scale)}"
