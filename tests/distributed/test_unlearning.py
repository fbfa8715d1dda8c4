"""Unlearning a model that FSDP2 shards does what it does to a whole one."""

from __future__ import annotations

from pathlib import Path

import pytest

from method_calls import NAMES, OURS
from on_ranks import unlearning
from on_ranks.processes import run_ranks, values


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_sharded_model_is_unlearned_as_a_whole_one(size: int, tmp_path: Path) -> None:
    values(run_ranks(size, unlearning.unlearned, size, folder=tmp_path))


@pytest.mark.parametrize("size", [2, 3])
def test_ascent_takes_the_gradient_of_all_ranks(size: int, tmp_path: Path) -> None:
    values(run_ranks(size, unlearning.ascent, size, folder=tmp_path))


def test_errors_are_those_of_all_ranks_and_leave_the_model(tmp_path: Path) -> None:
    first, second = values(run_ranks(2, unlearning.failures, 2, folder=tmp_path))
    assert "forget_loader is empty" in first[0]
    assert "forget_loader is empty" in second[0]
    assert first[1:] == second[1:]
    assert "don't agree on the number of retain batches" in first[1]
    assert "don't agree on the repair" in first[2]
    assert "looks for neighbours by one layer's output" in first[3]
    for said in first[4:6]:
        assert "use forget='unlikelihood' with guided=False" in said
    assert "stop=True looks at heldout_loader by itself" in first[6]
    assert "don't agree on the memory: it differs on rank 1" in first[7]
    assert "diverged" in first[8]
    assert "checkpoint is for a model in one process" in first[9]
    assert "forget_loader" in first[10]


def test_methods_that_one_process_runs_refuse_shards_by_name(tmp_path: Path) -> None:
    first, second = values(run_ranks(2, unlearning.methods, 2, folder=tmp_path))
    assert first == second
    assert list(first) == [name for name in NAMES if name not in OURS]
    for name, said in first.items():
        assert said.startswith(f"{name} works on whole parameters, in one process")
        assert "parameter '0.weight' is a DTensor" in said


def test_a_loss_that_fails_on_one_rank_leaves_the_model_on_all(tmp_path: Path) -> None:
    outcomes = values(run_ranks(2, unlearning.broken_loss, 2, folder=tmp_path, timeout=10.0))
    assert outcomes[1] == "the disk is gone"
    assert outcomes[0] != "the disk is gone"
