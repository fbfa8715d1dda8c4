from __future__ import annotations

import dataclasses

import pytest
import torch

from fgunlearn import metrics
from fgunlearn.experiment.data import Samples
from fgunlearn.experiment.resnet import ResNet
from fgunlearn.experiment.training import Training, train

SMALL = Training(widths=(8, 8), epochs=4, batch=16)


@pytest.fixture
def samples() -> Samples:
    """Two classes of noisy stripes, one across and one down: easy for a convolution."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 2
    stripes = (torch.arange(8) % 2).float().expand(8, 8)
    images = torch.where(labels[:, None, None] == 0, stripes, stripes.T)[:, None]
    noise = 0.3 * torch.randn(images.shape, generator=generator)
    return Samples(images + noise, labels, torch.full((1, 1, 1, 1), 0.5), torch.full((1, 1, 1, 1), 0.5))


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (1, 5)])
def test_the_network_takes_images_of_any_size(channels: int, size: int) -> None:
    assert ResNet(channels, 7, (8, 8, 8))(torch.randn(2, channels, size, size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"widths": ()}, "widths"), ({"widths": (4, 0)}, "widths"), ({"classes": 0}, "classes must be >= 1, got 0")],
)
def test_networks_without_a_size_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNet(**arguments)  # type: ignore[arg-type]


def test_training_learns_is_timed_and_leaves_the_model_in_eval_mode(samples: Samples) -> None:
    epochs: list[None] = []
    model, seconds = train(samples, 2, SMALL, seed=0, tick=lambda: epochs.append(None))
    assert metrics.accuracy(model, samples.batches(32)) > 0.95
    assert seconds > 0
    assert not model.training
    assert len(epochs) == 4


def test_the_same_seed_trains_the_same_model_and_leaves_torchs_generator_alone(samples: Samples) -> None:
    state = torch.get_rng_state()
    models = [train(samples, 2, dataclasses.replace(SMALL, epochs=1), seed)[0] for seed in (0, 0, 1)]
    weights = [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_the_learning_rate_rises_to_its_largest_and_falls_to_zero() -> None:
    training = Training(lr=0.4, warmup=0.25)
    assert [training.learning_rate(p) for p in (0.0, 0.125, 0.25, 0.625, 1.0)] == pytest.approx([0, 0.2, 0.4, 0.2, 0])


@pytest.mark.parametrize(("argument", "value"), [("epochs", 0), ("batch", 0), ("lr", -1.0), ("warmup", 1.0)])
def test_bad_recipes_are_refused_by_name(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be .*, got {value}"):
        Training(**{argument: value})  # type: ignore[arg-type]
