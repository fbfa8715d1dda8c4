from __future__ import annotations

import math
from collections.abc import Callable

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


def test_an_expanded_tensor_is_read_but_not_written() -> None:
    x = torch.tensor([[1.0], [2.0]]).expand(2, 3)
    assert ops.sparse_gather([x], [torch.tensor([0, 2, 3])])[0].tolist() == [1.0, 1.0, 2.0]
    with pytest.raises(RuntimeError, match=r"sparse_scatter_: tensors\[0\] is expanded"):
        ops.sparse_scatter_([x], [torch.tensor([0])], [torch.ones(1)])
    assert x[:, 0].tolist() == [1.0, 2.0]


def test_a_sparse_tensor_is_refused_by_name() -> None:
    with pytest.raises(RuntimeError, match=r"tensors\[1\] must be a strided tensor"):
        ops.sparse_gather([torch.ones(3), torch.ones(3).to_sparse()], [torch.tensor([0])] * 2)


def test_backward_through_values_that_were_overwritten_raises() -> None:
    x = torch.ones(3, requires_grad=True)
    loss = (x * x).sum()
    with torch.no_grad():
        ops.sparse_scatter_([x], [torch.tensor([1])], [torch.tensor([5.0])])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_writes_are_not_counted_on_tensors_that_have_no_counter() -> None:
    with torch.inference_mode():
        x = torch.ones(3)
        ops.sparse_scatter_([x], [torch.tensor([1])], [torch.tensor([5.0])])
    assert x.tolist() == [1.0, 5.0, 1.0]


def test_scattering_compiles_without_a_graph_break() -> None:
    def f(x: Tensor, values: Tensor) -> Tensor:
        ops.sparse_scatter_([x], [torch.tensor([0, 2])], [values])
        return x * 2

    eager, compiled = torch.ones(4), torch.ones(4)
    expected = f(eager, torch.tensor([3.0, 4.0]))
    got = torch.compile(f, backend="aot_eager", fullgraph=True)(compiled, torch.tensor([3.0, 4.0]))
    assert got.equal(expected)
    assert compiled.equal(eager)


def test_hundreds_of_tensors_on_any_number_of_threads(threads: Callable[[int], None]) -> None:
    tensors = [torch.randn(n % 700, 3) for n in range(0, 70_000, 191)]
    index = [indices(t.numel(), 1 + n % 5, torch.int64 if n % 2 else torch.int32) for n, t in enumerate(tensors)]
    values = [torch.randn(i.numel()) for i in index]
    expected = sparse_scatter_ref(tensors, index, values)
    for count in (1, 2, 8):
        threads(count)
        written = [t.clone() for t in tensors]
        ops.sparse_scatter_(written, index, values)
        assert all(a.equal(b) for a, b in zip(written, expected, strict=True))
        assert all(a.equal(b) for a, b in zip(ops.sparse_gather(written, index), values, strict=True))


@pytest.mark.parametrize("at", [0, 1, 65_535, 65_536, 65_537, 131_071])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_one_bad_index_in_a_long_list_is_found_wherever_it_is(at: int, dtype: torch.dtype) -> None:
    x = torch.zeros(200_000)
    for value, words in ((-1, "out of range"), (200_000, "out of range"), (None, "must ascend without repeats")):
        index = indices(131_072, 1, dtype)
        index[at] = index[at - 1] if value is None and at > 0 else index[1] if value is None else value
        with pytest.raises(RuntimeError, match=words):
            ops.sparse_scatter_([x], [index], [torch.ones(131_072)])
    assert not x.any()


def test_the_ops_pass_opcheck() -> None:
    torch.library.opcheck(torch.ops.fgunlearn.sparse_gather, ([torch.randn(9)], [torch.tensor([1, 3])]))
    torch.library.opcheck(
        torch.ops.fgunlearn.sparse_scatter_, ([torch.randn(9)], [torch.tensor([1, 3])], [torch.randn(2)])
    )
