"""What a ranking over processes sends, counted on one that has nobody to send it to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fgunlearn.distributed.layout import layout_of
from fgunlearn.distributed.ranking import Parts, digit_bits_of, top_of


class Alone:
    """In place of processes: counts the bytes that they would sum up."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.sent = 0

    def sum(self, tensor: Tensor) -> Tensor:
        self.sent += tensor.nbytes
        return tensor


@pytest.mark.parametrize(
    ("dtype", "tensors", "limit"),
    [
        (torch.float32, 64, 2**19),
        (torch.float32, 700, 2**20),
        (torch.float32, 5000, 1500 * 5000),
        (torch.float64, 450, 2**20),
        (torch.float64, 5000, 2300 * 5000),
    ],
)
def test_equal_scores_of_many_tensors_take_what_is_promised(dtype: torch.dtype, tensors: int, limit: int) -> None:
    # An odd number of equal keys, so that every bit of the last one's place is looked at; one tensor stands for all.
    keys, k = torch.ones(2**16, dtype=dtype), 43691
    alone: Any = Alone()
    bits = digit_bits_of([keys.numel()] * tensors, dtype == torch.float64)
    parts = Parts([keys], [layout_of(keys)], alone, ["keys"])
    (index,), threshold = top_of(parts, k, keys.numel(), alone, bits)
    assert index.equal(torch.arange(k, dtype=index.dtype))
    assert threshold == 1.0
    assert 0 < alone.sent * tensors < limit
