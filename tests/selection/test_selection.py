from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fgunlearn as fg


def make(*locals_: list[int], shapes: list[tuple[int, ...]] | None = None, **kwargs: object) -> fg.Selection:
    shapes = shapes or [(4, 5), (7,), ()]
    indices = [torch.tensor(i, dtype=torch.int32) for i in locals_]
    return fg.Selection(shapes, indices, **kwargs)  # type: ignore[arg-type]


def test_it_knows_its_size() -> None:
    selection = make([0, 19], [3], [0], names=["a", "b", "c"])
    assert (selection.k, len(selection), selection.numel) == (4, 4, 28)
    assert selection.ratio == pytest.approx(4 / 28)
    assert selection.density() == {"a": 0.1, "b": pytest.approx(1 / 7), "c": 1.0}
    assert [i.dtype for i in selection.indices] == [torch.int32] * 3


def test_masks_have_the_tensors_shapes_and_are_true_at_the_indices() -> None:
    masks = make([0, 19], [], [0]).masks()
    assert [tuple(m.shape) for m in masks] == [(4, 5), (7,), ()]
    assert masks[0].nonzero().tolist() == [[0, 0], [3, 4]]
    assert not masks[1].any()
    assert bool(masks[2])


subsets = st.sets(st.integers(0, 19)).map(sorted)


@given(a=subsets, b=subsets)
def test_set_algebra_is_that_of_sets(a: list[int], b: list[int]) -> None:
    x, y = make(a, [1], []), make(b, [2], [])
    assert (x | y).indices[0].tolist() == sorted(set(a) | set(b))
    assert (x & y).indices[0].tolist() == sorted(set(a) & set(b))
    assert (x - y).indices[0].tolist() == sorted(set(a) - set(b))
    assert ((x - y) | (x & y)) == x
    assert (x == y) is False  # they differ in the second tensor


def test_selections_of_other_tensors_do_not_mix() -> None:
    with pytest.raises(ValueError, match="different tensors"):
        make([0], [], []) | make([0], shapes=[(20,)])
    with pytest.raises(ValueError, match="different tensors"):
        make([0], [], [], names=["a", "b", "c"]) & make([0], [], [])
    assert make([0], [], []) != make([0], shapes=[(20,)])


@given(indices=subsets, named=st.booleans(), threshold=st.none() | st.floats(0), seed=st.none() | st.integers(-9, 9))
@settings(max_examples=25)
def test_a_saved_selection_comes_back(
    tmp_path_factory: pytest.TempPathFactory, indices: list[int], named: bool, threshold: float | None, seed: int | None
) -> None:
    path = tmp_path_factory.mktemp("selection") / "s.safetensors"
    names = ["a", "b", "c"] if named else None
    selection = make(indices, [], [0], names=names, threshold=threshold, seed=seed)
    selection.save(path)
    back = fg.Selection.load(path)
    assert back == selection
    assert (back.names, back.threshold, back.seed) == (selection.names, threshold, seed)


@pytest.mark.parametrize("damage", ["truncated", "text", "other safetensors", "flipped"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "s.safetensors"
    make([0, 19], [3], [0]).save(path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-4])
    elif damage == "text":
        path.write_text("not a selection")
    elif damage == "other safetensors":
        from safetensors.torch import save_file

        save_file({"x": torch.zeros(1)}, path)
    else:  # the last index is set out of range
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ValueError, match=r"s\.safetensors|out of range"):
        fg.Selection.load(path)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"nowhere"):
        fg.Selection.load(tmp_path / "nowhere")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        make([0], [], []).save(tmp_path / "missing" / "s")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("indices", "error", "words"),
    [
        ([torch.tensor([20])], ValueError, "index 20 of tensor number 0 is out of range"),
        ([torch.tensor([-1])], ValueError, "index -1"),
        ([torch.tensor([3, 3])], ValueError, "ascend without repeats"),
        ([torch.tensor([3, 2])], ValueError, "ascend without repeats"),
        ([torch.tensor([1.0])], TypeError, "int32 or int64"),
        ([torch.tensor([[1]])], TypeError, "1-D"),
        ([], ValueError, "indices has 0 tensors for 1 shapes"),
    ],
)
def test_bad_indices_are_refused(indices: list[torch.Tensor], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        fg.Selection([(4, 5)], indices)


def test_it_is_not_hashable() -> None:
    with pytest.raises(TypeError):
        hash(make([0], [], []))
