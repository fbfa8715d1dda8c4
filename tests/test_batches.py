"""What a batch of any form tells of its size, and what is made of those without samples."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from fgunlearn.batches import batch_size, known_size, one_pass, without_samples


@dataclass
class Points:
    name: str
    x: Tensor


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


X, Y = torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (X, 5),
        ((X, Y), 5),
        (Pair(X, Y), 5),
        ({"text": "abc", "x": X}, 5),
        (UserDict(x=X), 5),
        (Points("p", X), 5),
        ([[{"inner": Points("p", X)}], Y], 5),
        ((torch.tensor(1.0), [X]), 5),
        (np.zeros((4, 2)), 4),
        (["a text", "another"], 2),
        ({"texts": ["a", "b", "c"], "labels": [0, 1, 1]}, 3),
        (({"texts": ["a", "b", "c"]}, X), 5),  # a tensor comes before a list
        ({"ids": [[1, 2, 3], [4]], "labels": [0, 1]}, 2),
        ([], 0),
        ((X[:0], Y[:0]), 0),
    ],
)
def test_a_batch_tells_its_size(batch: Any, size: int) -> None:
    assert batch_size(batch) == known_size(batch) == size
    assert without_samples(batch) == (size == 0)


@pytest.mark.parametrize(
    "batch", ["text", None, 3, torch.tensor(1.0), object(), {}, (1.0, 2), [["a", "b", "c"], [1, 0, 1]], Points]
)
def test_what_does_not_tell_is_not_guessed_and_not_taken_for_empty(batch: Any) -> None:
    assert known_size(batch) is None
    assert not without_samples(batch)
    with pytest.raises(TypeError, match=f"a batch must hold a tensor whose first .* got {type(batch).__name__}"):
        batch_size(batch)


def test_a_batch_with_samples_and_an_empty_tensor_beside_them_is_not_empty() -> None:
    assert not without_samples({"boxes": X[:0], "images": X})


def test_a_pass_leaves_out_what_has_no_samples_and_keeps_the_places() -> None:
    assert [place for place, _ in one_pass([X, X[:0], X], "loader")] == [0, 2]


@pytest.mark.parametrize(("loader", "what"), [([], "batch"), ([X[:0]], "sample")])
def test_a_pass_without_samples_is_refused(loader: Any, what: str) -> None:
    with pytest.raises(ValueError, match=f"retain_loader gave no {what} when it was read again"):
        list(one_pass(loader, "retain_loader"))
