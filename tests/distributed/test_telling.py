"""What one rank alone runs into is an error of all."""

from __future__ import annotations

from pathlib import Path

from on_ranks import telling
from on_ranks.processes import run_ranks, values


def test_what_one_rank_alone_runs_into_is_told_whatever_its_words(tmp_path: Path) -> None:
    usual, odd = values(run_ranks(2, telling.words, 2, folder=tmp_path, timeout=20.0))
    assert len(usual) == len(odd) == 7
    for text in (*usual[:4], *odd[:4]):
        assert "no parameter that requires grad" in text
    assert "caf\\udce9" in usual[4]
    assert "rank 1 could not score its part of the data: Unspeakable" in usual[5]
    assert odd[4:6] == ["ValueError: no such file: caf\udce9", "Unspeakable"]
    assert usual[6] == odd[6]
    assert "loader is empty on every rank" in odd[6]
