from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fgunlearn import ops
from fgunlearn.ops.gather import sparse_gather_ref, sparse_scatter_ref

LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
    "a slice": lambda x: torch.stack([x, x], dim=-1)[..., 0],
    "expanded then copied into strides": lambda x: torch.empty_strided(x.shape, (1, 1000, 6, 60), dtype=x.dtype).copy_(
        x
    ),
}


def indices(numel: int, every: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.arange(0, numel, every, dtype=dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("every", [1, 2, 17])
def test_gather_and_scatter_follow_c_order_in_any_layout(layout: str, dtype: torch.dtype, every: int) -> None:
    x = LAYOUTS[layout](torch.randn(6, 4, 5, 3).to(dtype))
    index = [indices(x.numel(), every)]
    values = ops.sparse_gather([x], index)
    assert values[0].equal(sparse_gather_ref([x], index)[0])
    new = [torch.randn(index[0].numel()).to(dtype)]
    expected = sparse_scatter_ref([x], index, new)
    ops.sparse_scatter_([x], index, new)
    assert x.equal(expected[0])


def test_bits_are_kept_nan_payloads_included() -> None:
    bits = torch.tensor([0x7FC01234, -2147483648, 1], dtype=torch.int32)
    x = torch.zeros(5)
    ops.sparse_scatter_([x], [torch.tensor([0, 2, 4])], [bits.view(torch.float32)])
    assert ops.sparse_gather([x], [torch.tensor([0, 2, 4])])[0].view(torch.int32).equal(bits)
    assert x[[1, 3]].tolist() == [0.0, 0.0]


def test_nothing_selected_is_fine() -> None:
    x = torch.randn(4)
    assert ops.sparse_gather([x, torch.zeros(0)], [indices(0, 1)] * 2)[0].numel() == 0
    assert ops.sparse_gather([], []) == []


def test_int64_indices_and_large_lists() -> None:
    x = torch.randn(200_000)
    index = [indices(x.numel(), 3, torch.int64)]
    assert ops.sparse_gather([x], index)[0].equal(x[::3])


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (torch.tensor([0, 4]), r"indices\[0\]\[1\] = 4 is out of range for a tensor of 4 elements"),
        (torch.tensor([-1, 2]), r"indices\[0\]\[0\] = -1 is out of range"),
        (torch.tensor([2, 1]), r"indices\[0\] must ascend without repeats, but entry 1 is 1 after 2"),
        (torch.tensor([2, 2]), "entry 1 is 2 after 2"),
        (torch.tensor([0.0]), "int32 or int64"),
        (torch.tensor([[0]]), "contiguous 1-D"),
    ],
)
def test_bad_indices_are_refused_and_nothing_is_written(index: Tensor, words: str) -> None:
    x = torch.full((4,), math.pi)
    with pytest.raises(RuntimeError, match=words):
        ops.sparse_gather([x], [index])
    with pytest.raises(RuntimeError, match=words):
        ops.sparse_scatter_([x], [index], [torch.zeros(index.numel())])
    assert x.equal(torch.full((4,), math.pi))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([torch.zeros(1)], r"values\[0\] has 1 elements for 2 indices"),
        ([torch.zeros(2).half()], r"values\[0\] must have the dtype"),
        ([], "tensors has 1 entries and values has 0"),
    ],
)
def test_values_that_do_not_fit_are_refused(values: list[Tensor], words: str) -> None:
    x = torch.ones(4)
    with pytest.raises(RuntimeError, match=words):
        ops.sparse_scatter_([x], [torch.tensor([0, 1])], values)
    assert x.equal(torch.ones(4))


def test_the_ops_pass_opcheck() -> None:
    torch.library.opcheck(torch.ops.fgunlearn.sparse_gather, ([torch.randn(9)], [torch.tensor([1, 3])]))
    torch.library.opcheck(
        torch.ops.fgunlearn.sparse_scatter_, ([torch.randn(9)], [torch.tensor([1, 3])], [torch.randn(2)])
    )
