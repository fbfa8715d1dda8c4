"""What the words of a deletion request mean, and what they may not say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fgunlearn.experiment import data, requests, scenarios
from fgunlearn.experiment.data import Dataset
from fgunlearn.experiment.requests import Request


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    return Dataset(torch.rand(500, 1, 8, 8, generator=generator), torch.arange(500) % 10)


@pytest.fixture(scope="module")
def source(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("requests") / "data.safetensors"
    dataset.save(path)
    return f"tensors:{path}"


@pytest.mark.parametrize(
    ("spec", "request_", "name"),
    [
        ("random", Request("random", share=0.1), "random-0.1"),
        ("random:0.25", Request("random", share=0.25), "random-0.25"),
        ("class", Request("class"), "class"),
        ("class:3", Request("class", label=3), "class-3"),
        ("mislabel:.05", Request("mislabel", share=0.05), "mislabel-0.05"),
    ],
)
def test_a_word_names_a_request(spec: str, request_: Request, name: str) -> None:
    assert requests.parse(spec) == request_
    assert request_.name == name


def test_rows_are_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("7  # asked on Monday\n\n# nothing\n3\n")
    asked = requests.parse(f"ids:{tmp_path / 'rows.txt'}")
    assert (asked.kind, asked.rows) == ("ids", (3, 7))
    assert asked.name.startswith("ids-2-")
    assert asked.name != Request("ids", rows=(3, 8)).name


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("randon:0.1", "got 'randon:0.1'; did you mean random?"),
        ("half", "must be random, class, mislabel or ids:FILE, got 'half'$"),
        ("random:", "ends with a colon"),
        ("random:1", r"the share must be a number in \(0, 1\), got '1'"),
        ("random:0", r"in \(0, 1\), got '0'"),
        ("mislabel:nan", r"in \(0, 1\), got 'nan'"),
        ("mislabel:much", r"in \(0, 1\), got 'much'"),
        ("class:-1", "the class must be a number, got '-1'"),
        ("class:cat", "the class must be a number, got 'cat'"),
        ("ids", "needs a file"),
        ("ids:nowhere.txt", "there is no file nowhere.txt"),
    ],
)
def test_other_words_are_refused(spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        requests.parse(spec)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3\n3\n", "line 2 of .* repeats row 3"),
        ("3\nx\n", "line 2 .* got 'x'"),
        ("-3\n", "got '-3'"),
        ("#\n", "no row"),
    ],
)
def test_a_file_of_other_things_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text(text)
    with pytest.raises(ValueError, match=words):
        requests.parse(f"ids:{tmp_path / 'rows.txt'}")


def test_named_rows_are_trained_on_and_forgotten_with_every_seed(dataset: Dataset, source: str) -> None:
    rows = (0, 10, 250, 499)
    for seed in range(3):
        for limit in (None, 50):
            scenario, classes = Request("ids", rows=rows).scenario(source, seed, limit)
            assert classes == 10
            assert scenario.forget.images.equal(dataset.images[list(rows)])
            assert scenario.forget.labels.equal(dataset.labels[list(rows)])
            assert len(scenario.forget) + len(scenario.retain) == len(scenario.train)
            for part in (scenario.retain, scenario.heldout, scenario.test):
                assert not {i.numpy().tobytes() for i in part.images} & {
                    i.numpy().tobytes() for i in scenario.forget.images
                }


def test_the_rows_of_a_split_are_its_training_samples(dataset: Dataset) -> None:
    for limit in (None, 60):
        split = data.split(dataset, seed=1, limit=limit)
        assert split.train.images.equal(dataset.images[split.rows])


def test_rows_that_may_not_be_trained_on_are_refused(dataset: Dataset, source: str) -> None:
    with pytest.raises(ValueError, match="row 500 can't be kept: the data has 500 rows"):
        Request("ids", rows=(3, 500)).scenario(source, 0)
    own_test = Dataset(dataset.images, dataset.labels, test_from=400)
    with pytest.raises(ValueError, match="row 400 can't be kept: the data has 400 rows"):
        data.split(own_test, seed=0, keep=torch.tensor([400]))


def test_a_class_is_as_named(source: str) -> None:
    scenario, _ = Request("class", label=3).scenario(source, 5)
    assert scenario.forget.labels.unique().tolist() == [3]
    with pytest.raises(ValueError, match="the classes 0 to 9, and no class 10"):
        Request("class", label=10).scenario(source, 0)


def test_something_must_be_forgotten_and_something_kept(dataset: Dataset, source: str) -> None:
    for share, count in ((0.0001, 0), (0.9999, 350)):
        with pytest.raises(ValueError, match=f"{count} of 350 training samples are to be forgotten"):
            Request("random", share=share).scenario(source, 0)
    split = data.split(dataset, seed=0)
    heldout = torch.tensor([i for i in range(500) if i not in set(split.rows.tolist())][:1])
    with pytest.raises(ValueError, match=f"row {int(heldout)} is none of the training samples"):
        scenarios.forgetting(split, torch.cat([split.rows[:1], heldout]))
    with pytest.raises(ValueError, match="a row is repeated"):
        scenarios.forgetting(split, split.rows[:1].repeat(2))
