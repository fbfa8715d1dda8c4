"""Coordinate search: K first, then the size of the perturbation, then the length of the repair."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fgunlearn.methods.selective import FORGET_TERM
from fgunlearn.perturb import Gaussian, Perturbation, Shrink


@dataclass(frozen=True)
class Configuration:
    """What is searched for.

    Attributes:
        ratio: K, as a share of the coordinates.
        perturb: what is done to them first.
        epochs: of the repair.
    """

    ratio: float
    perturb: Perturbation | None
    epochs: float

    @property
    def size(self) -> str:
        """The perturbation for tables and files: "shrink 0.5", "gaussian 0.5", "none"."""
        if self.perturb is None:
            return "none"
        name = type(self.perturb).__name__.lower()
        value = {Shrink: "factor", Gaussian: "std"}.get(type(self.perturb))
        return name if value is None else f"{name} {getattr(self.perturb, value):g}"

    @property
    def name(self) -> str:
        """In one line: "K 0.7, shrink 0.5, 2 epochs"."""
        return f"K {self.ratio:g}, {self.size}, {self.epochs:g} epoch{'s' if self.epochs != 1 else ''}"


@dataclass(frozen=True)
class Grid:
    """Where to look, and from where: the values of each coordinate, and the configuration to begin with.

    The default begins with this package's recipe, and adds the paper's (arXiv 2401.04385) zeroing, noise, and shorter
    and longer repairs.

    Raises:
        ValueError: nothing to try for a coordinate, or a start that is not on the grid.
    """

    ratio: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
    perturb: tuple[Perturbation | None, ...] = (Shrink(0.0), Shrink(0.5), Gaussian(0.5))
    epochs: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0)
    start: Configuration = Configuration(FORGET_TERM.ratio, FORGET_TERM.perturb, FORGET_TERM.repair.epochs)

    def __post_init__(self) -> None:
        for coordinate in COORDINATES:
            values, first = getattr(self, coordinate), getattr(self.start, coordinate)
            if not values:
                raise ValueError(f"{coordinate} must hold at least one value, got {values!r}")
            if first not in values:
                raise ValueError(f"start must be on the grid: {coordinate} is {first!r}, and not one of {values!r}")


COORDINATES = ("ratio", "perturb", "epochs")


@dataclass(frozen=True)
class Evaluation:
    """A configuration that was tried.

    Attributes:
        configuration: which.
        coordinate: of the search, while it was tried: "ratio", "perturb" or "epochs".
        criterion: what is to be small; infinite where there is none, as the repair diverged.
        found: what else the evaluation told.
    """

    configuration: Configuration
    coordinate: str
    criterion: float
    found: Any


def coordinate_search(
    grid: Grid, evaluate: Callable[[Configuration], tuple[float, Any]]
) -> tuple[Evaluation, list[Evaluation]]:
    """Changes one coordinate after the other to the value with the smallest criterion, the others kept.

    Each configuration is evaluated once. A tie stays where the search is: the recipe holds until something is better.
    Of several others the first on the grid wins. So len(ratio) + len(perturb) + len(epochs) - 2 evaluations, where all
    combinations would be their product; what it can miss is a value that is good only together with another.

    Args:
        grid: where to look.
        evaluate: the criterion of a configuration, NaN or infinite where it failed, and what else there is to keep.

    Returns:
        The chosen evaluation, and all of them in the order in which they were made.
    """
    done: dict[Configuration, Evaluation] = {}

    def evaluated(configuration: Configuration, coordinate: str) -> Evaluation:
        if configuration not in done:
            value, found = evaluate(configuration)
            done[configuration] = Evaluation(configuration, coordinate, math.inf if math.isnan(value) else value, found)
        return done[configuration]

    best = grid.start
    for coordinate in COORDINATES:
        tried = [
            evaluated(dataclasses.replace(best, **{coordinate: value}), coordinate)
            for value in getattr(grid, coordinate)
        ]
        smallest = min(e.criterion for e in tried)
        if done[best].criterion > smallest:
            best = next(e.configuration for e in tried if e.criterion == smallest)
    return done[best], list(done.values())
