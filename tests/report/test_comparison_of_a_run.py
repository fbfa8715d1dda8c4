"""A comparison that was really run, as a report."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from fgunlearn.experiment.compare import comparison, trial
from fgunlearn.experiment.compare.comparison import Comparison
from fgunlearn.experiment.compare.entries import parse
from fgunlearn.experiment.data import Dataset
from fgunlearn.experiment.requests import Request
from fgunlearn.experiment.results import read_json
from fgunlearn.experiment.training import Training
from fgunlearn.report import save
from fgunlearn.report.comparison import main_figure, write_report
from fgunlearn.spdgan import SPDGAN, Fitting

pytest.importorskip("jinja2")


def test_a_run_s_results_file_makes_a_report_and_a_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = functools.partial(SPDGAN, width=4, blocks=0, fitting=Fitting(steps=2, batch=8))
    monkeypatch.setattr(trial, "SPDGAN", short)  # one worker is this process
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    images = torch.rand(60, 1, 8, 8, generator=generator) + labels[:, None, None, None]
    Dataset(images, labels).save(tmp_path / "data.safetensors")
    asked = Comparison(
        source=f"tensors:{tmp_path / 'data.safetensors'}",
        requests=(Request("random"),),
        entries=tuple(
            map(parse, ("topk", "topk:ratio=0.1", "topk:ratio=0.5", "topk:ratio=0.9", "finetune", "retrain"))
        ),
        seeds=(0,),
        training=Training(widths=(8, 8), epochs=1, batch=8),
        relearn=False,
        jobs=1,
    )
    comparison.run(asked, tmp_path / "out", progress=False)
    results = read_json(tmp_path / "out" / comparison.RESULTS)
    assert results is not None
    write_report(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for name in ("quality", "accuracy", "scores", "membership", "k-sweep", "density", "learning", "phases"):
        assert f'<figure class="{name}"' in page
    assert "share-sweep" not in page
    assert "topk:<wbr>ratio=<wbr>0.5" in page
    assert str(tmp_path) not in page
    pytest.importorskip("matplotlib")
    save(main_figure(results), tmp_path / "main.png")
