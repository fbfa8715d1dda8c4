from __future__ import annotations

import pytest
import torch

from fgunlearn.experiment import data, scenarios
from fgunlearn.experiment.data import Dataset, Split


@pytest.fixture
def split() -> Split:
    generator = torch.Generator().manual_seed(0)
    return data.split(Dataset(torch.rand(500, 1, 8, 8, generator=generator), torch.arange(500) % 10), seed=0)


def rows(samples: data.Samples) -> set[bytes]:
    return {image.numpy().tobytes() for image in samples.images}


@pytest.mark.parametrize("name", scenarios.NAMES)
def test_forget_and_retain_are_the_training_data_without_overlap(split: Split, name: str) -> None:
    found = scenarios.make(name, split, seed=1)
    assert not rows(found.forget) & rows(found.retain)
    assert rows(found.forget) | rows(found.retain) == rows(found.train) == rows(split.train)
    assert rows(found.heldout) == rows(split.heldout)


@pytest.mark.parametrize("name", scenarios.NAMES)
def test_a_scenario_is_a_function_of_the_seed(split: Split, name: str) -> None:
    first, same, other = (scenarios.make(name, split, seed) for seed in (1, 1, 2))
    assert torch.equal(first.forget.images, same.forget.images)
    assert torch.equal(first.forget.labels, same.forget.labels)
    assert rows(first.forget) != rows(other.forget)


def test_random_forgets_a_tenth_and_keeps_all_labels(split: Split) -> None:
    found = scenarios.make("random", split, seed=1)
    assert len(found.forget) == round(0.1 * len(split.train))
    assert torch.equal(found.train.labels, split.train.labels)
    assert rows(found.test) == rows(found.like_forget) == rows(split.test)


def test_class_forgets_one_class_and_tests_on_the_others(split: Split) -> None:
    found = scenarios.make("class", split, seed=1)
    assert found.forget.labels.unique().tolist() == [4]
    assert 4 not in found.retain.labels
    assert 4 not in found.test.labels
    assert found.like_forget.labels.unique().tolist() == [4]
    assert rows(found.test) | rows(found.like_forget) == rows(split.test)


def test_mislabel_gives_a_tenth_another_label_and_forgets_those(split: Split) -> None:
    found = scenarios.make("mislabel", split, seed=1)
    changed = found.train.labels != split.train.labels
    assert int(changed.sum()) == round(0.1 * len(split.train))
    assert torch.equal(found.forget.images, split.train.images[changed])
    assert torch.equal(found.forget.labels, found.train.labels[changed])
    assert torch.equal(found.retain.labels, split.train.labels[~changed])
    assert torch.equal(found.test.labels, split.test.labels)


def test_an_unknown_scenario_is_refused(split: Split) -> None:
    with pytest.raises(ValueError, match="one of 'random', 'class', 'mislabel', got 'half'"):
        scenarios.make("half", split, seed=0)
