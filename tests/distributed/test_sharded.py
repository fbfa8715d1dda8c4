"""Selections of sharded tensors say what ordinary ones of whole tensors say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fgunlearn as fg
from fgunlearn.distributed.identity import identity
from fgunlearn.distributed.processes import processes_of
from on_ranks import sharded
from on_ranks.processes import run_ranks, values


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_sharded_selections_are_the_ordinary_ones(size: int, tmp_path: Path) -> None:
    values(run_ranks(size, sharded.selections, size, tmp_path, folder=tmp_path))


def test_parts_that_are_alike_on_one_rank_only(tmp_path: Path) -> None:
    values(run_ranks(3, sharded.alike_on_one_rank_only, 3, folder=tmp_path, timeout=20.0))


def test_what_does_not_fit_is_refused_on_every_rank(tmp_path: Path) -> None:
    first, second = values(run_ranks(2, sharded.refusals, 2, tmp_path, folder=tmp_path))
    assert first[0] == second[0]
    assert first[0].startswith("TypeError: parameter 'weight' has the placement P(sum)")
    assert "parameter 'bias' of shape (40,)" in first[1]
    assert "has a local part of shape (3,), where (20,) was expected" in first[1]
    assert "FileNotFoundError" in first[2]
    assert second[2].startswith("RuntimeError: rank 0 could not save the selection")
    assert first[3] == second[3] == "ValueError: a is a DTensor and b is not: " + first[3].split(": ", 2)[2]
    assert first[4].startswith("TypeError: group must be a torch.distributed process group or None, got 'all'")


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_that_mean_different_things_are_all_told(size: int, tmp_path: Path) -> None:
    said = values(run_ranks(size, sharded.agreements, size, folder=tmp_path))
    assert all(words[:2] == said[0][:2] for words in said)
    strategy, names = said[0][:2]
    assert strategy.startswith("the processes don't agree on the strategy: it differs on rank 1 from rank")
    assert "TopK(ratio=0.2" in strategy
    assert "TopK(ratio=0.1" in strategy
    assert "don't agree on the names" in names
    assert "'c'" in names
    assert len(names) < 600
    for rank, words in enumerate(said):
        assert ("rank 1 can't take part: ValueError: " if rank != 1 else "") + "k must be >= 0, got -1" == words[2]


def test_an_identity_tells_tensors_apart_and_not_their_parts() -> None:
    def of(*indices: list[int]) -> list[int]:
        return identity((t, torch.tensor(index, dtype=torch.int64)) for t, index in enumerate(indices)).tolist()

    assert of([1], [2]) != of([2], [1])
    assert of([1, 2], [3]) != of([1], [2, 3])
    assert len(set(of([1], [2]))) == 2
    assert (torch.tensor(of([1], [])) + torch.tensor(of([5], [2]))).tolist() == of([1, 5], [2])


def test_without_a_process_group_the_error_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="init_process_group"):
        processes_of({"a": torch.ones(2)}, group=object())
    assert processes_of({"a": torch.ones(2)}) is None


def test_a_selection_of_whole_tensors_is_its_own_shard() -> None:
    model = torch.nn.Linear(3, 2)
    selection = fg.select(model, [], None, fg.RandomK(0.5))
    assert selection.shard(model) is selection
    assert selection.full() is selection
    with pytest.raises(ValueError, match="made for another model"):
        selection.shard(torch.nn.Linear(4, 2))
