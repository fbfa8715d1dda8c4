"""A SparseOptimizer steps shards as it steps whole tensors, and its state moves to other shardings."""

from __future__ import annotations

from pathlib import Path

import pytest

from on_ranks import training
from on_ranks.processes import run_ranks, values


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_steps_are_those_of_one_process(size: int, tmp_path: Path) -> None:
    values(run_ranks(size, training.steps, size, folder=tmp_path))


@pytest.mark.parametrize("size", [1, 3])
def test_stochastic_rounding_is_that_of_one_process(size: int, tmp_path: Path) -> None:
    values(run_ranks(size, training.rounding, size, folder=tmp_path))


@pytest.mark.parametrize("size", [2, 4])
def test_fsdp_gradients_can_be_freed_and_clipped(size: int, tmp_path: Path) -> None:
    values(run_ranks(size, training.freed, size, folder=tmp_path))


def test_what_shards_can_not_do_is_refused(tmp_path: Path) -> None:
    values(run_ranks(2, training.refusals, 2, folder=tmp_path))


# Shardings by their number in training.sharded: 0 is FSDP2's, 2 by columns; of 4 ranks, 4 is HSDP's, 9 strided.
@pytest.mark.parametrize(("size", "sharding"), [(4, 0), (2, 2)])
def test_a_checkpoint_goes_on_under_any_other_sharding(size: int, sharding: int, tmp_path: Path) -> None:
    values(run_ranks(size, training.save, size, sharding, tmp_path, folder=tmp_path))
    for other, resharding in ((2, 0), (3, 0), (3, 2), (1, -1), (4, 4), (4, 9)):
        values(run_ranks(other, training.load, other, resharding, tmp_path, folder=tmp_path))


def test_an_optimizer_without_state_is_saved_as_one(tmp_path: Path) -> None:
    values(run_ranks(2, training.state_of_nothing, 2, folder=tmp_path))
