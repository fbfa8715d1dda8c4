"""Selecting without holding scores, over shards and replicas, gives the answer of one process that holds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from on_ranks import streaming
from on_ranks.processes import run_ranks, values


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_shards_are_streamed_to_the_selection_of_one_process_bit_for_bit(size: int, tmp_path: Path) -> None:
    values(run_ranks(size, streaming.shards, size, folder=tmp_path))


@pytest.mark.parametrize("size", [3, 4])
def test_dtensors_that_no_fsdp_made_are_streamed_too(size: int, tmp_path: Path) -> None:
    values(run_ranks(size, streaming.by_hand, size, folder=tmp_path))


@pytest.mark.parametrize("size", [2, 4])
def test_any_gradients_dtypes_and_loaders_give_what_dense_shards_give(size: int, tmp_path: Path) -> None:
    values(run_ranks(size, streaming.floats, size, folder=tmp_path))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_replicas_stream_the_sums_of_all_their_data(size: int, tmp_path: Path) -> None:
    values(run_ranks(size, streaming.replicas, size, folder=tmp_path))


def test_less_than_a_mebibyte_is_sent_and_spread_scores_take_two_passes(tmp_path: Path) -> None:
    for found in values(run_ranks(2, streaming.sent, 2, folder=tmp_path)):
        assert max(sent for sent, _ in found.values()) < 2**20, found
        assert found["float32 spread None"][1] == found["float64 spread None"][1] == 2
        # Three digits of 14 bits, one of places, and one to emit; of float64 five digits.
        assert found["float32 plateau 1"][1] <= 5
        assert found["float64 plateau 1"][1] <= 7


def test_shards_take_the_memory_of_a_pass_and_not_that_of_their_scores(tmp_path: Path) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells a peak of memory: /proc/self/clear_refs is missing")
    for found in values(run_ranks(2, streaming.memory, 2, folder=tmp_path)):
        # Bytes per parameter of a shard, what FSDP2 gathers for a pass among them.
        assert found["dense"] > 8.0, found  # gradients and scores
        assert found["streaming"] < 5.0, found
        assert found["streaming"] < found["compact"] < 6.5, found  # sums in bfloat16


def test_what_is_wrong_on_one_rank_is_said_on_all(tmp_path: Path) -> None:
    said = values(run_ranks(3, streaming.refusals, 3, folder=tmp_path))
    words = (
        "don't agree on the memory: it differs on rank 2",
        "don't agree on the memory: it differs on rank 2",
        "give list(loader), or memory='dense'",
        "loader is empty on rank 2",
        "the disk is gone",
        "scope='channel' adds up scores that memory='streaming' does not hold",
        "loader is empty on rank 2",
        "the gradients changed from one reading to the next",
        "loader is empty on every rank",
        "the disk is gone",
        "scope='channel' adds up scores that memory='streaming' does not hold",
        *["NaN or infinite values"] * 4,
        *["are the replicas' parameters the same?"] * 2,
    )
    for rank, told in enumerate(said):
        assert len(told) == len(words)
        for expected, text in zip(words, told, strict=True):
            assert expected in text, (rank, text)
    assert said[0][11:15] == said[1][11:15] == said[2][11:15]


def test_a_rank_that_dies_between_passes_is_an_error_on_the_others(tmp_path: Path) -> None:
    outcomes = run_ranks(3, streaming.death, 3, folder=tmp_path, timeout=5.0, expect_death=(1,))
    assert outcomes[1].error == "died"
    assert outcomes[0].error is None, outcomes[0].error
    assert outcomes[2].error is None, outcomes[2].error


@pytest.mark.parametrize("size", [1, 2])
def test_modules_that_keep_their_gradients_to_themselves_are_refused(size: int, tmp_path: Path) -> None:
    for said in values(run_ranks(size, streaming.unsynchronised, size, folder=tmp_path)):
        for text in said[:6] + said[7:]:
            assert "call model.set_requires_gradient_sync(True)" in text
        assert "holds gradients that were not reduced" in said[6]


def test_hooks_of_an_optimizer_in_the_backward_pass_wait(tmp_path: Path) -> None:
    values(run_ranks(2, streaming.hooks_of_others, 2, folder=tmp_path))


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_that_are_about_different_operations_are_told_which(size: int, tmp_path: Path) -> None:
    said = values(run_ranks(size, streaming.operations, size, folder=tmp_path, timeout=20.0))
    words = (
        ("fgunlearn.select", "fgunlearn.score"),
        ("fgunlearn.select", "ShardedSelection.full"),
        ("fgunlearn.perturb_", "ShardedSelection.save"),
        ("ShardedSelection |", "ShardedSelection &"),
        ("selection",),
        ("ShardedSelection.shard", "fgunlearn.unlearn"),
    )
    for told in said:
        assert told == said[0]
        for expected, text in zip(words, told, strict=True):
            assert all(word in text for word in expected), text
