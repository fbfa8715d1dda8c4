"""Perturbing a sharded model gives the values that one process gives, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from on_ranks import perturbing
from on_ranks.processes import run_ranks, values


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_sharding_is_perturbed_to_the_bits_of_one_process(size: int, tmp_path: Path) -> None:
    values(run_ranks(size, perturbing.perturbed, size, folder=tmp_path))


def test_parts_that_are_not_contiguous(tmp_path: Path) -> None:
    values(run_ranks(2, perturbing.part_that_is_not_contiguous, 2, folder=tmp_path))


def test_ranks_that_mean_different_things_are_told_and_nothing_moves(tmp_path: Path) -> None:
    first, second = values(run_ranks(2, perturbing.refusals, 2, folder=tmp_path))
    assert first == second
    assert "don't agree on the perturbation" in first[0]
    assert "don't agree on the selection" in first[1]
