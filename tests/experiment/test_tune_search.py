from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgunlearn.experiment.rank_correlation import spearman
from fgunlearn.experiment.tune.search import COORDINATES, Configuration, Grid, coordinate_search
from fgunlearn.methods.selective import FORGET_TERM
from fgunlearn.perturb import Gaussian, Reset, Shrink

GRID = Grid()


def landscape(ratio: float, perturb: object, epochs: float) -> dict[Configuration, float]:
    """A valley whose coordinates do not depend on each other, its bottom there."""
    best = Configuration(ratio, perturb, epochs)  # type: ignore[arg-type]
    return {
        point: sum(
            abs(getattr(GRID, name).index(getattr(point, name)) - getattr(GRID, name).index(getattr(best, name)))
            for name in COORDINATES
        )
        for point in itertools.starmap(Configuration, itertools.product(GRID.ratio, GRID.perturb, GRID.epochs))
    }


def test_the_default_grid_begins_with_the_recipe() -> None:
    assert GRID.start == Configuration(FORGET_TERM.ratio, FORGET_TERM.perturb, FORGET_TERM.repair.epochs)


@given(st.sampled_from(GRID.ratio), st.sampled_from(GRID.perturb), st.sampled_from(GRID.epochs))
def test_the_best_of_a_valley_is_found_in_as_many_steps_as_the_grid_has_values(
    ratio: float, perturb: object, epochs: float
) -> None:
    heights = landscape(ratio, perturb, epochs)
    chosen, tried = coordinate_search(GRID, lambda point: (heights[point], point.name))
    assert chosen.configuration == Configuration(ratio, perturb, epochs)  # type: ignore[arg-type]
    assert chosen.criterion == 0
    assert chosen.found == chosen.configuration.name
    assert len(tried) == len({e.configuration for e in tried}) == 7 + 3 + 4 - 2
    assert [e.coordinate for e in tried] == ["ratio"] * 7 + ["perturb"] * 2 + ["epochs"] * 3


@given(st.lists(st.floats(0, 100), min_size=84, max_size=84))
def test_what_is_chosen_is_never_worse_than_the_start_nor_than_any_other_that_was_tried(heights: list[float]) -> None:
    points = list(itertools.starmap(Configuration, itertools.product(GRID.ratio, GRID.perturb, GRID.epochs)))
    height = dict(zip(points, heights, strict=True))
    chosen, tried = coordinate_search(GRID, lambda point: (height[point], None))
    assert chosen.criterion == min(e.criterion for e in tried)
    assert GRID.start in {e.configuration for e in tried}
    assert (chosen, tried) == coordinate_search(GRID, lambda point: (height[point], None))


def test_a_tie_stays_at_the_recipe_and_else_goes_to_the_first() -> None:
    assert coordinate_search(GRID, lambda _: (1.0, None))[0].configuration == GRID.start
    chosen, _ = coordinate_search(GRID, lambda point: (float(point.ratio not in (0.2, 0.3)), None))
    assert chosen.configuration.ratio == 0.2
    assert (chosen.configuration.perturb, chosen.configuration.epochs) == (GRID.start.perturb, GRID.start.epochs)


def test_a_configuration_that_failed_is_never_chosen() -> None:
    def evaluate(point: Configuration) -> tuple[float, None]:
        return (math.nan if point.ratio < 0.5 else math.inf if point.epochs > 2 else 1.0), None

    assert coordinate_search(GRID, evaluate)[0].configuration == GRID.start
    chosen, tried = coordinate_search(GRID, lambda _: (math.nan, None))
    assert math.isinf(chosen.criterion)
    assert len(tried) == 12


def test_configurations_have_names() -> None:
    assert Configuration(0.7, Shrink(0.5), 2.0).name == "K 0.7, shrink 0.5, 2 epochs"
    assert Configuration(0.05, Gaussian(0.25), 1.0).name == "K 0.05, gaussian 0.25, 1 epoch"
    assert [Configuration(0.1, perturb, 0.5).size for perturb in (None, Reset())] == ["none", "reset"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratio": ()}, r"ratio must hold at least one value, got \(\)"),
        ({"ratio": (0.1, 0.2)}, r"start must be on the grid: ratio is 0.7, and not one of \(0.1, 0.2\)"),
        ({"epochs": (1.0,)}, r"start must be on the grid: epochs is 2"),
    ],
)
def test_a_grid_without_values_or_without_its_start_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid(**changes)  # type: ignore[arg-type]


def test_rank_correlation_is_that_of_the_order() -> None:
    pytest.importorskip("scipy")
    assert spearman([1.0, 2.0, 3.0], [10.0, 11.0, 90.0]) == pytest.approx(1.0)
    assert spearman([0.1 + 0.2, 0.3, 0.5], [2.0, 2.0, 1.0]) == pytest.approx(-1.0)  # equal but for rounding
    assert math.isnan(spearman([1.0, 1.0], [1.0, 2.0]))
