"""The backward pass that processes take together: hooks, interrupts, and gradients in several parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.distributed.fsdp import FSDPModule

from on_ranks import backward
from on_ranks.processes import run_ranks, values


def test_hooks_of_dtensors_that_no_fsdp_made_wait_and_then_go_on(tmp_path: Path) -> None:
    values(run_ranks(2, backward.hooks_of_tensors_by_hand, 2, folder=tmp_path))


@pytest.mark.skipif(not hasattr(FSDPModule, "reset_iter_state"), reason="this torch can't forget a pass")
def test_a_pass_that_was_broken_off_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    values(run_ranks(2, backward.interrupted_passes, 2, folder=tmp_path))


def test_a_pass_that_stays_broken_off_is_refused(tmp_path: Path) -> None:
    for said in values(run_ranks(2, backward.passes_that_stay_broken, 2, folder=tmp_path)):
        assert len(said) == 6
        assert all("is in a backward pass that was broken off" in text for text in said)


def test_gradients_in_parts_from_reentrant_checkpoints_are_refused(tmp_path: Path) -> None:
    for said in values(run_ranks(2, backward.checkpoints, 2, folder=tmp_path)):
        assert len(said) == 5
        assert all("use_reentrant=False" in text for text in said)
