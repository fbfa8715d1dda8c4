"""Writes the committed results of ``fgunlearn tune`` into docs/choosing-k.md, between its marks.

Run it after new results that are to be committed were put into docs/results/. A test compares the page with what this
script would write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import marked_regions

from fgunlearn.experiment.results import spread

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "choosing-k.md"
FILES = ("tune-digits", "tune-digits-class", "tune-digits-mislabel")


def results(name: str) -> dict[str, Any]:
    """The committed results of that name."""
    return json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())


def sections() -> Iterator[dict[str, Any]]:
    """The summaries of all requests."""
    for name in FILES:
        yield from results(name)["summary"]


def each(rows: list[dict[str, Any]]) -> str:
    """K, perturbation and epochs, seed by seed."""
    return "; ".join(f"{row['ratio']:g}, {row['perturb']}, {row['epochs']:g}" for row in rows)


def chosen() -> str:
    """What was chosen, and what it cost."""
    lines = [
        "| request | chosen (K, perturbation, epochs), by seed | criterion | average gap | best by hindsight, by seed "
        "| its gap | regret | search s | one retraining s |",
        f"|---|---|{'---|' * 7}",
    ]
    for row in sections():
        lines.append(
            f"| {row['title']} | {each(row['chosen'])} | {spread(row['criterion'], 2)} | {spread(row['gap'], 2)} | "
            f"{each(row['best'])} | {spread(row['best_gap'], 2)} | {spread(row['regret'], 2)} | "
            f"{spread(row['seconds'], 1)} | {spread(row['retrain_seconds'], 1)} |"
        )
    return "\n".join(lines)


def regrets() -> str:
    """The search beside no search, chance, and what no search can beat."""
    lines = [
        "| request | regret of the search | of the recipe | of a draw | gap of a second retrained model | rank "
        "correlation | regret on accuracies alone | rank correlation on them |",
        f"|---|{'---|' * 7}",
    ]
    for row in sections():
        again = row["references"]["retrained_again"]["gap"]
        alone = row["accuracy"]
        lines.append(
            f"| {row['title']} | {spread(row['regret'], 2)} | {spread(row['regret_of_recipe'], 2)} | "
            f"{spread(row['regret_of_draw'], 2)} | {spread(again, 2)} | {spread(row['spearman'], 2)} | "
            f"{spread(alone['regret'], 2)} | {spread(alone['spearman'], 2)} |"
        )
    return "\n".join(lines)


def only_k() -> str:
    """K alone, the other two coordinates at the recipe's."""
    lines = [
        "| request | gap of the chosen K | of the best K | regret |",
        "|---|---|---|---|",
    ]
    for row in sections():
        found = row["ratio"]
        lines.append(
            f"| {row['title']} | {spread(found['gap'], 2)} | {spread(found['best_gap'], 2)} | "
            f"{spread(found['regret'], 2)} |"
        )
    return "\n".join(lines)


def references() -> str:
    """Does the criterion know a retrained model when it sees one?"""
    lines = [
        "| request | criterion of the source | of the chosen | of the retrained model | of a second one | average gap "
        "of the source |",
        f"|---|{'---|' * 5}",
    ]
    for row in sections():
        found = row["references"]
        lines.append(
            f"| {row['title']} | {spread(found['source']['criterion'], 2)} | {spread(row['criterion'], 2)} | "
            f"{spread(found['retrained']['criterion'], 2)} | {spread(found['retrained_again']['criterion'], 2)} | "
            f"{spread(found['source']['gap'], 2)} |"
        )
    return "\n".join(lines)


def common() -> dict[str, Any]:
    """What is said once of all files: where, when and on how much it was measured.

    Raises:
        ValueError: a file says something else than the first; both are named.
    """
    said = {name: said_by(results(name)) for name in FILES}
    first = said[FILES[0]]
    for name in FILES[1:]:
        for about, value in first.items():
            if said[name][about] != value:
                raise ValueError(
                    f"docs/results/{name}.json has the {about} {said[name][about]!r}, but {FILES[0]}.json {value!r}: "
                    "measure them alike"
                )
    return first


def said_by(found: dict[str, Any]) -> dict[str, Any]:
    """The part of one file's results that has to be that of the others."""
    configuration = found["configuration"]
    sizes = [task["sizes"] for task in found["tasks"]]
    return {
        "date": found["date"],
        "machine": found["machine"],
        **{about: configuration[about] for about in ("source", "method", "training", "grid", "seeds", "limit")},
        "training images": sorted({size["forget"] + size["retain"] for size in sizes}),
        "images held out": sorted({size["heldout"] for size in sizes}),
    }


def machine() -> str:
    """Where, when and on how much it was measured."""
    said = common()
    where, (training,), (heldout,) = said["machine"], said["training images"], said["images held out"]
    test = results(FILES[0])["tasks"][0]["sizes"]["test"]  # fewer where a class is forgotten, which is left out of it
    minutes = sum(results(name)["seconds"] for name in FILES) / 60
    return (
        f"{where['processor']}, {where['cores']} cores, {where['processes']} process of one thread, torch "
        f"{where['torch']}; {minutes:.0f} minutes in all, {said['date']}, beside other jobs on the same machine: "
        f"compare seconds with seconds. Seeds {', '.join(map(str, said['seeds']))}; "
        f"{training} training images, {heldout} held out, {test} to test on."
    )


FIGURES: dict[str, Callable[[], str]] = {
    "machine": machine,
    "chosen": chosen,
    "regrets": regrets,
    "only K": only_k,
    "references": references,
}


def rendered(text: str) -> str:
    """``text`` with everything between the marks measured; ValueError where a mark is missing."""
    return marked_regions.rendered(text, FIGURES, "docs/choosing-k.md")


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
