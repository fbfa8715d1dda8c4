"""Layouts against torch's own way to split a tensor."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from fgunlearn.distributed.layout import concatenated, layout_of, placed


@st.composite
def placements_of_a_tensor(draw: st.DrawFn) -> tuple[list[int], list[int], list[Any]]:
    shape = draw(st.lists(st.integers(0, 6), min_size=1, max_size=3))
    mesh = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    dimension = st.integers(0, len(shape) - 1)
    strided = st.builds(lambda d, parts: _StridedShard(d, split_factor=parts), dimension, st.integers(1, 3))
    one = st.one_of(st.just(Replicate()), st.builds(Shard, dimension), strided)
    return shape, mesh, [draw(one) for _ in mesh]


@settings(deadline=None, max_examples=200)
@given(placements_of_a_tensor(), st.data())
def test_a_layout_says_what_torch_puts_where(case: tuple[list[int], list[int], list[Any]], data: st.DataObject) -> None:
    shape, mesh, placements = case
    whole = torch.arange(torch.Size(shape).numel()).reshape(shape)
    counted = []
    for coordinate in itertools.product(*map(range, mesh)):
        part = whole
        for size, at, placement in zip(mesh, coordinate, placements, strict=True):
            if not isinstance(placement, Replicate):
                part = placement._split_tensor(part, size, with_padding=False, contiguous=True)[0][at]
        layout = placed(shape, mesh, coordinate, placements, "t")
        held = part.reshape(-1)
        assert layout.local_shape == tuple(part.shape)
        assert layout.to_global(torch.arange(len(held), dtype=torch.int32)).equal(held)
        assert bool((held[1:] > held[:-1]).all())
        offset = layout.offset
        assert (offset is not None) == bool((held.diff() == 1).all())
        assert offset is None or held.equal(torch.arange(len(held)) + offset)
        wanted = torch.tensor(
            sorted(data.draw(st.sets(st.integers(0, max(whole.numel() - 1, 0))))) if whole.numel() else [],
            dtype=torch.int64,
        )
        at, local = layout.to_local(wanted)
        assert wanted[at].equal(held[local])
        assert len(at) == len(set(wanted.tolist()) & set(held.tolist()))
        probes = torch.arange(-2, whole.numel() + 3)
        assert layout.locals_before(probes).equal((held[None] < probes[:, None]).sum(1))
        if layout.first:
            counted.append(held)
    assert torch.cat(counted).sort().values.equal(whole.reshape(-1))  # each element once


def test_a_plain_tensor_is_a_whole() -> None:
    layout = layout_of(torch.ones(2, 3))
    assert (layout.shape, layout.local_shape, layout.offset, layout.first) == ((2, 3), (2, 3), 0, True)
    assert layout_of(torch.tensor(1.0)).to_global(torch.tensor([0])).tolist() == [0]


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_tensors_one_after_another_along_the_first_dimension(rank: int) -> None:
    layout = concatenated((2, 4) if rank == 2 else (rank * 3, 4), [0, 3, 2], rank)
    assert layout.shape == (5, 4)
    assert layout.local_shape == ([0, 3, 2][rank], 4)
    assert layout.offset == [0, 0, 12][rank]


def test_partial_sums_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"parameter 'w' has the placement .*redistribute it first"):
        placed([4], [2], [0], [Partial()], "parameter 'w'")
