"""The study of docs/audit.md in small: every model, as it is and rounded, and none of it a matter of luck."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fgunlearn import metrics
from fgunlearn.audit import RelearningOptions
from fgunlearn.experiment import relearning
from fgunlearn.experiment.data import Dataset
from fgunlearn.experiment.relearning import Study
from fgunlearn.experiment.training import Training

MODELS = ("source", "retrained", "retrained_again", "gradient_ascent")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(180) % 3
    images = 0.3 * torch.rand(180, 1, 8, 8, generator=generator)
    for label, (row, column) in enumerate([(0, 0), (0, 4), (4, 0)]):
        images[labels == label, :, row : row + 4, column : column + 4] += 1.0
    path = tmp_path_factory.mktemp("relearning") / "data.safetensors"
    Dataset(images, labels).save(path)
    return Study(
        source=f"tensors:{path}",
        scenarios=("class",),
        methods=("gradient_ascent",),
        seeds=(0, 1),
        training=Training(widths=(8, 8), epochs=2),
        relearning=RelearningOptions(max_steps=6, check_every=3),
    )


@pytest.fixture(scope="module")
def found(study: Study) -> dict[str, Any]:
    return relearning.run(study, progress=False)


def test_every_model_is_trained_back_as_it_is_and_rounded(found: dict[str, Any]) -> None:
    assert [(task["scenario"], task["seed"]) for task in found["tasks"]] == [("class", 0), ("class", 1)]
    for task in found["tasks"]:
        assert tuple(task["models"]) == MODELS
        source = task["models"]["source"]
        assert (source["float"]["steps"], source["float"]["reached"]) == (0.0, 1.0)  # its own loss is the target
        assert math.isnan(source["within_half_a_step_of_8_bits"])
        for model in task["models"].values():
            for way in ("float", "int8", "int4"):
                assert model[way]["steps"] in (0.0, 3.0, 6.0)
                assert model[way]["reached"] == 1.0 or model[way]["steps"] == 6.0
        retrained = task["models"]["retrained"]
        assert 0 < retrained["within_half_a_step_of_8_bits"] < retrained["within_half_a_step_of_4_bits"] < 1
    assert found["summary"]["class"]["source"]["float"]["steps"] == {"mean": 0.0, "std": 0.0, "seeds": 2}


def test_it_is_the_same_again_and_says_nothing_of_where_the_data_lie(study: Study, found: dict[str, Any]) -> None:
    again = relearning.run(study, progress=False)
    assert str(again["tasks"]) == str(found["tasks"])
    assert found["configuration"]["source"] == "tensors"
    assert str(Path(study.source.partition(":")[2]).parent) not in json.dumps(found)


def test_what_rounding_would_undo_is_counted() -> None:
    source = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        source.weight.copy_(torch.tensor([[1.27, 0.0, 0.5, -0.5]]))  # steps of 0.01
    model = copy.deepcopy(source)
    with torch.no_grad():
        model.weight += torch.tensor([[0.0, 0.004, 0.006, -0.004]])
    assert relearning.within_half_a_step(source, model, 8) == pytest.approx(2 / 3)
    assert math.isnan(relearning.within_half_a_step(source, source, 8))
    rounded = metrics.quantized(model).weight - metrics.quantized(source).weight
    assert [round(each, 4) for each in rounded.flatten().tolist()] == [0.0, 0.0, 0.01, 0.0]


def test_what_cant_be_run_is_refused(study: Study) -> None:
    with pytest.raises(ValueError, match=r"seeds must hold at least one, got \(\)"):
        relearning.run(Study(seeds=()))
    with pytest.raises(ValueError, match="nothing"):
        relearning.run(Study(methods=("nothing",)))
