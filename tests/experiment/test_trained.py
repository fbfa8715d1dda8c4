"""Models that are trained once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fgunlearn.experiment import trained
from fgunlearn.experiment.data import Samples
from fgunlearn.experiment.trained import TrainedModels, key_of
from fgunlearn.experiment.training import Training

TINY = Training(widths=(4,), epochs=1, batch=8)


@pytest.fixture
def samples() -> Samples:
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    return Samples(torch.rand(24, 1, 8, 8, generator=generator), torch.arange(24) % 3, mean, std)


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([tensor.double().flatten() for tensor in model.state_dict().values()])


def test_a_model_is_trained_once_and_then_read(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, seconds = TrainedModels(tmp_path / "models").train(samples, 3, TINY, seed=1)
    monkeypatch.setattr(trained, "train", lambda *_: pytest.fail("trained again"))
    again, same = TrainedModels(tmp_path / "models").train(samples, 3, TINY, seed=1)
    assert weights(again).equal(weights(first))
    assert same == seconds
    assert not again.training
    x = samples.images
    assert again(x).equal(first(x))


def test_whatever_it_is_a_function_of_has_a_key_of_its_own(samples: Samples) -> None:
    other_labels = samples.relabelled((samples.labels + 1) % 3)
    other_image = replace(samples, images=samples.images.clone())
    other_image.images[3, 0, 2, 1] += 1e-6
    keys = [
        key_of(samples, 3, TINY, 1),
        key_of(samples, 3, TINY, 2),
        key_of(samples, 4, TINY, 1),
        key_of(samples, 3, replace(TINY, lr=0.2), 1),
        key_of(other_labels, 3, TINY, 1),
        key_of(other_image, 3, TINY, 1),
        key_of(samples.take(torch.arange(23)), 3, TINY, 1),
        key_of(replace(samples, std=2 * samples.std), 3, TINY, 1),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of(samples, 3, TINY, 1) == keys[0]


def test_a_damaged_file_is_trained_anew(samples: Samples, tmp_path: Path) -> None:
    first, _ = TrainedModels(tmp_path).train(samples, 3, TINY, seed=1)
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], b"x" * len(whole)):
        path.write_bytes(damaged)
        again, _ = TrainedModels(tmp_path).train(samples, 3, TINY, seed=1)
        assert weights(again).equal(weights(first))
        assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_without_a_folder_nothing_is_kept(samples: Samples, tmp_path: Path) -> None:
    model, seconds = TrainedModels(None).train(samples, 3, TINY, seed=1)
    kept, _ = TrainedModels(tmp_path).train(samples, 3, TINY, seed=1)
    assert weights(model).equal(weights(kept))
    assert seconds > 0
