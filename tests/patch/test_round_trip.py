"""Creating, applying and reverting: the same bytes come out, whatever the tensors are."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from checkpoints import (
    Tensor,
    Tensors,
    changed,
    changed_at,
    contents,
    random_tensor,
    write,
    write_sharded,
)
from fgunlearn import checkpoint_files, patch
from fgunlearn.checkpoint_files import WIDTHS

PIECE = 64  # bytes, instead of 4 MiB


def _there_and_back(folder: Path, base: Path, new: Path) -> patch.Patch:
    """By new files and in place; ``new`` has the header of ``base``, so that it is what applying makes."""
    was, now, patch_file = base.read_bytes(), new.read_bytes(), folder / "patch.safetensors"
    made = patch.create(base, new, patch_file)
    assert patch.apply(base, patch_file, folder / "applied") == made
    patch.revert(folder / "applied", patch_file, folder / "reverted")
    assert (folder / "applied").read_bytes() == now
    assert (folder / "reverted").read_bytes() == was
    patch.apply(base, patch_file, in_place=True)
    assert base.read_bytes() == now
    patch.revert(base, patch_file, in_place=True)
    assert base.read_bytes() == was
    assert sorted(contents(folder)) == sorted({base.name, new.name, "patch.safetensors", "applied", "reverted"})
    return made


@st.composite
def _changes(draw: st.DrawFn) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of any dtype, many of about a piece or two, and the same with any elements changed."""
    before, after = {}, {}
    names = draw(
        st.lists(st.text(min_size=1, max_size=4).filter(lambda name: name != "__metadata__"), max_size=4, unique=True)
    )
    for i, name in enumerate(names):
        dtype = draw(st.sampled_from(sorted(WIDTHS)))
        piece = PIECE // WIDTHS[dtype]
        sizes = [0, 1, 2, piece - 1, piece, piece + 1, 2 * piece, 3 * piece + 1]
        numel = draw(st.sampled_from(sizes))
        shape = draw(st.sampled_from([(numel,), (1, numel), (numel, 1, 1), *([()] if numel == 1 else [(numel,)])]))
        before[name] = random_tensor(dtype, shape, i)
        positions = draw(st.sets(st.integers(0, numel - 1))) if numel else ()
        after[name] = changed_at(before[name], sorted(positions), i)
    return before, after


@given(_changes(), st.integers(0, 9), st.none() | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2))
@settings(max_examples=60, deadline=None)
def test_applying_gives_the_new_file_and_reverting_the_old_one(
    changes: tuple[Tensors, Tensors], padding: int, metadata: dict[str, str] | None
) -> None:
    with tempfile.TemporaryDirectory() as name, mock.patch.object(checkpoint_files, "PIECE", PIECE):
        folder = Path(name)
        base = write(folder / "base", changes[0], metadata, padding)
        made = _there_and_back(folder, base, write(folder / "new", changes[1], metadata, padding))
    for tensor in made.tensors:
        was, now = (side[tensor.name] for side in changes)
        width = WIDTHS[tensor.dtype]
        differ = sum(was.data[i : i + width] != now.data[i : i + width] for i in range(0, len(was.data), width))
        assert tensor.changed == differ


@pytest.mark.parametrize("dtype", sorted(WIDTHS))
@pytest.mark.parametrize("share", [0.0, 0.02, 1.0])
def test_every_dtype_with_none_some_and_all_values_changed(tmp_path: Path, dtype: str, share: float) -> None:
    tensors = {
        "t": random_tensor(dtype, (30, 10)),
        "scalar": random_tensor(dtype, ()),
        "empty": random_tensor(dtype, (0, 3)),
    }
    count = math.ceil(share * 300)
    made = _there_and_back(tmp_path, write(tmp_path / "a", tensors), write(tmp_path / "b", changed(tensors, count)))
    assert {tensor.name: tensor.changed for tensor in made.tensors} == {"t": count, "scalar": min(count, 1), "empty": 0}


def test_values_are_compared_by_their_bits(tmp_path: Path) -> None:
    def words(*values: int) -> Tensor:
        return Tensor("F32", (len(values),), np.array(values, "<u4").tobytes())

    quiet, payload, negative = 0x7FC00000, 0x7FC00001, 0xFFC00000
    base = write(tmp_path / "a", {"t": words(0, 0x80000000, quiet, quiet, payload)})
    new = write(tmp_path / "b", {"t": words(0x80000000, 0x80000000, quiet, payload, negative)})
    assert _there_and_back(tmp_path, base, new).changed == 3  # 0 to -0 and two of the NaNs; not the NaN that stays


def test_signs_of_zero_and_nans_come_through_the_safetensors_library(tmp_path: Path) -> None:
    old = np.array([0.0, -0.0, np.nan, 1.0], np.float16)
    save_file({"t": old}, tmp_path / "a")
    save_file({"t": np.array([-0.0, -0.0, np.nan, np.inf], np.float16)}, tmp_path / "b")
    made = _there_and_back(tmp_path, tmp_path / "a", tmp_path / "b")
    assert made.changed == 2
    found = load_file(tmp_path / "applied")["t"]
    assert np.signbit(found).tolist() == [True, True, False, False]
    assert np.isnan(found[2])
    assert load_file(tmp_path / "reverted")["t"].tobytes() == old.tobytes()


def test_a_checkpoint_without_tensors(tmp_path: Path) -> None:
    made = _there_and_back(tmp_path, write(tmp_path / "a", {}, {"a": "b"}), write(tmp_path / "b", {}, {"a": "b"}))
    assert made.tensors == ()


def test_the_base_keeps_its_own_header(tmp_path: Path) -> None:
    """Metadata, order and white space of the new file's header are not part of the change."""
    tensors = {"z": random_tensor("F32", (4,)), "a": random_tensor("U8", (3,)), "m": random_tensor("F64", (2,))}
    base = write(tmp_path / "base", tensors, {"trained": "yesterday"}, padding=3)
    after = changed(tensors, 2)
    new = write(tmp_path / "new", {name: after[name] for name in sorted(after)}, {"other": "words"})
    patch.create(base, new, tmp_path / "p")
    patch.apply(base, tmp_path / "p", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == write(
        tmp_path / "expected", after, {"trained": "yesterday"}, padding=3
    ).read_bytes()


SHARDS = {
    "model-00001-of-00002.safetensors": {"a": random_tensor("F32", (20,), 1), "b": random_tensor("F16", (3, 3), 2)},
    "model-00002-of-00002.safetensors": {"c": random_tensor("BF16", (40,), 3), "d": random_tensor("I8", (), 4)},
}
AFTER = {name: changed(tensors) for name, tensors in SHARDS.items()}


def test_a_sharded_checkpoint_goes_to_a_new_folder_and_back(tmp_path: Path) -> None:
    base, new = write_sharded(tmp_path / "base", SHARDS), write_sharded(tmp_path / "new", AFTER)
    was, now = contents(tmp_path / "base"), contents(tmp_path / "new")
    patch.create(base, new, tmp_path / "p")
    patch.apply(base, tmp_path / "p", tmp_path / "out")
    (tmp_path / "back").mkdir(mode=0o700)
    patch.revert(tmp_path / "out" / base.name, tmp_path / "p", tmp_path / "back")
    assert contents(tmp_path / "out") == now
    assert contents(tmp_path / "back") == contents(tmp_path / "base") == was
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o700  # that of the empty folder which was there
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "base", "new", "out", "p"]


def test_a_sharded_checkpoint_in_place(tmp_path: Path) -> None:
    base, new = write_sharded(tmp_path / "base", SHARDS), write_sharded(tmp_path / "new", AFTER)
    was, now = contents(tmp_path / "base"), contents(tmp_path / "new")
    patch.create(base, new, tmp_path / "p")
    patch.apply(base, tmp_path / "p", in_place=True)
    assert contents(tmp_path / "base") == now
    patch.revert(base, tmp_path / "p", in_place=True)
    assert contents(tmp_path / "base") == was


@pytest.mark.parametrize("sharded", ["base", "new"])
def test_a_sharded_checkpoint_against_a_single_file(tmp_path: Path, sharded: str) -> None:
    def whole(path: Path, shards: dict[str, dict[str, Tensor]]) -> Path:
        return write(path, {name: tensor for shard in shards.values() for name, tensor in shard.items()})

    if sharded == "base":
        base, new = write_sharded(tmp_path / "base", SHARDS), whole(tmp_path / "new", AFTER)
        expected = contents(write_sharded(tmp_path / "expected", AFTER).parent)
    else:
        base, new = whole(tmp_path / "base", SHARDS), write_sharded(tmp_path / "new", AFTER)
        expected = {"out": whole(tmp_path / "expected", AFTER).read_bytes()}
    patch.create(base, new, tmp_path / "p")
    patch.apply(base, tmp_path / "p", tmp_path / "out")
    out = tmp_path / "out"
    assert (contents(out) if out.is_dir() else {"out": out.read_bytes()}) == expected


@pytest.mark.parametrize("count", [1, 40])
def test_threads_make_no_difference(tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_files, "PIECE", 4096)
    tensors = {f"t{i}": random_tensor("F32", (200_000 // count,), i) for i in range(count)}
    base, new = write(tmp_path / "base", tensors), write(tmp_path / "new", changed(tensors, 4000 // count))
    found = []
    for cores in (1, 8):
        monkeypatch.setattr("os.sched_getaffinity", lambda process, cores=cores: set(range(cores)), raising=False)
        patch.create(base, new, tmp_path / f"p{cores}")
        patch.apply(base, tmp_path / f"p{cores}", tmp_path / f"out{cores}")
        patch.revert(tmp_path / f"out{cores}", tmp_path / f"p{cores}", in_place=True)
        assert (tmp_path / f"out{cores}").read_bytes() == base.read_bytes()
        found.append((tmp_path / f"p{cores}").read_bytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("share", [0.001, 0.01])
def test_a_changed_f32_value_takes_less_than_12_bytes(tmp_path: Path, share: float) -> None:
    tensors = {f"layer{i}.weight": random_tensor("F32", (500, 1000), i) for i in range(2)}
    base, new = write(tmp_path / "a", tensors), write(tmp_path / "b", changed(tensors, int(share * 500_000)))
    made = patch.create(base, new, tmp_path / "p")
    assert made.changed == share * 1_000_000
    assert made.size == (tmp_path / "p").stat().st_size < 12 * made.changed


@pytest.mark.parametrize("call", [patch.apply, patch.revert])
def test_the_out_file_has_the_permissions_of_the_one_that_it_replaces(
    tmp_path: Path, call: Callable[..., patch.Patch]
) -> None:
    tensors = {"t": random_tensor("F32", (8,))}
    base, new = write(tmp_path / "a", tensors), write(tmp_path / "b", changed(tensors))
    patch.create(base, new, tmp_path / "p")
    out = tmp_path / "out"
    out.write_text("old")
    out.chmod(0o640)
    call(base if call is patch.apply else new, tmp_path / "p", out)
    assert out.stat().st_mode & 0o777 == 0o640
    assert out.read_bytes() == (new if call is patch.apply else base).read_bytes()
