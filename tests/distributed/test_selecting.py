"""Selecting over shards and replicas gives the answer of one process, bit for bit."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from on_ranks import selecting
from on_ranks.processes import run_ranks, values


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_dtensors_are_ranked_over_their_mesh(size: int, tmp_path: Path) -> None:
    values(run_ranks(size, selecting.dtensors, size, folder=tmp_path))


@pytest.mark.parametrize("size", [2, 3])
def test_plain_tensors_are_the_parts_of_their_concatenation(size: int, tmp_path: Path) -> None:
    values(run_ranks(size, selecting.plain_shards, size, folder=tmp_path))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_sharded_models_are_scored_and_selected_from_as_whole_ones(size: int, tmp_path: Path) -> None:
    values(run_ranks(size, selecting.sharded_models, size, folder=tmp_path))


@pytest.mark.parametrize("size", [2, 4])
def test_batches_of_other_sizes_and_loaders_that_end_early(size: int, tmp_path: Path) -> None:
    values(run_ranks(size, selecting.uneven_data, size, folder=tmp_path))


@pytest.mark.parametrize("size", [2, 3])
def test_replicas_with_a_part_of_the_data_each_select_alike(size: int, tmp_path: Path) -> None:
    values(run_ranks(size, selecting.replicas, size, folder=tmp_path))


def test_less_than_a_mebibyte_is_sent_at_any_size(tmp_path: Path) -> None:
    for counts in values(run_ranks(2, selecting.sent_bytes, 2, folder=tmp_path)):
        assert max(counts.values()) < 2**20, counts
        assert max(bytes for label, bytes in counts.items() if "each" not in label) < 200_000, counts
        for label in ("spread True", "equal False", "each"):
            # A few bits of places more.
            assert counts[f"large {label}"] <= counts[f"small {label}"] + 2**16, counts


def test_every_rank_is_told_what_is_wrong(tmp_path: Path) -> None:
    said = values(run_ranks(3, selecting.refusals, 3, folder=tmp_path))
    words = (
        "don't agree on the strategy: it differs on rank 2",
        "don't agree on the strategy: it differs on rank 2",
        "don't agree on the names: it differs on rank 2",
        "don't agree on the dtypes: it differs on rank 2",
        "don't agree on the strategy: it differs on rank 2",
        "don't agree on the strategy: it differs on rank 2",
        "k must be at most the number of coordinates",
        "don't agree on the shapes: it differs on rank 2",
        "tensor '0' has no dimension",
        "scope='channel' needs whole channels",
        "tensor number 0 holds 3 NaN",
        "scope='channel' needs whole channels",
        "loader is empty on rank 2",
        "loader is empty on every rank",
        "the disk is gone",
        "the disk is gone",
        "don't agree on the names: it differs on rank 2",
        "don't agree on the operation: it differs on rank 2",
        "ratio must be in [0, 1], got -1.0",
        "no parameter that requires grad",
        "the score of 'first.weight' has 20 NaN or infinite values",
        "are the replicas' parameters the same?",
    )
    for rank, told in enumerate(said):
        assert len(told) == len(words)
        for expected, text in zip(words, told, strict=True):
            assert expected in text, (rank, text)


@pytest.mark.parametrize("size", [3, 5])
def test_a_mesh_may_be_of_some_ranks_only(size: int, tmp_path: Path) -> None:
    values(run_ranks(size, selecting.part_of_the_ranks, size, folder=tmp_path))


def test_a_rank_that_dies_is_an_error_on_the_others_and_leaves_no_file(tmp_path: Path) -> None:
    start = time.monotonic()
    outcomes = run_ranks(3, selecting.death, 3, tmp_path, folder=tmp_path, timeout=5.0, expect_death=(1,))
    assert outcomes[1].error == "died"
    assert outcomes[0].error is None, outcomes[0].error
    assert outcomes[2].error is None, outcomes[2].error
    assert time.monotonic() - start < 60
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("meeting")] == []
