"""Reading the headers of safetensors files and the indexes of sharded checkpoints, damaged and hostile ones too."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from checkpoints import (
    Tensor,
    contents,
    file_bytes,
    header_of,
    random_tensor,
    refused_unchanged,
    write,
    write_sharded,
)
from fgunlearn import checkpoint_files
from fgunlearn.checkpoint_files import WIDTHS, StoredTensor, bounded_numel, pieces, read_checkpoint, read_weights


def _entry(begin: int, end: int, shape: object = None, dtype: object = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def test_a_file_of_the_safetensors_library_is_read_as_it_was_written(tmp_path: Path) -> None:
    arrays = {"b": np.zeros((2, 3), np.float32), "a": np.ones(5, bool), "e": np.zeros((0, 4)), "s": np.array(7)}
    save_file(arrays, tmp_path / "f", metadata={"k": "v"})
    found = read_weights(tmp_path / "f")
    assert found.metadata == {"k": "v"}
    assert found.size == (tmp_path / "f").stat().st_size
    assert {t.name: t.shape for t in found.tensors} == {name: array.shape for name, array in arrays.items()}
    assert {t.name: t.dtype for t in found.tensors} == {"b": "F32", "a": "BOOL", "e": "F64", "s": "I64"}
    held = (tmp_path / "f").read_bytes()
    for tensor in found.tensors:
        assert held[tensor.begin : tensor.end] == arrays[tensor.name].tobytes()
        assert tensor.numel * tensor.width == tensor.end - tensor.begin
    ends = [tensor.end for tensor in found.tensors]
    assert [found.data, *ends[:-1]] == [tensor.begin for tensor in found.tensors]
    assert ends[-1] == found.size


def test_tensors_come_by_offset_and_not_by_their_place_in_the_header(tmp_path: Path) -> None:
    header = {"x": _entry(3, 5), "y": _entry(0, 3), "empty": _entry(3, 3)}
    (tmp_path / "f").write_bytes(file_bytes(header, b"12345", padding=5))
    assert [tensor.name for tensor in read_weights(tmp_path / "f").tensors] == ["y", "empty", "x"]


@pytest.mark.parametrize(
    ("held", "parts"),
    [
        (b"", ["0 bytes", "has no header"]),
        (b"1234567", ["7 bytes", "has no header"]),
        (bytes(8), ["JSON"]),
        (b"\x10" + bytes(7) + b"{}", ["10 bytes", "its header has 16 bytes"]),
        (b"\xff" * 8 + b"{}", ["its header has 18446744073709551615 bytes"]),
        (file_bytes("[]", b""), ["not an object"]),
        (file_bytes("{", b""), ["not JSON"]),
        (file_bytes('{"a":1,"a":1}', b""), ["'a' twice"]),
        (file_bytes("[" * 100_000, b""), ["nested too deeply"]),
        (b"\x02" + bytes(7) + b"\xff\xfe", ["UTF-8"]),
        (file_bytes({"__metadata__": {"a": 1}}, b""), ["__metadata__ must hold strings"]),
        (file_bytes({"__metadata__": []}, b""), ["__metadata__ must hold strings"]),
        (file_bytes({"a": 1}, b""), ["'a'", "dtype, shape and data_offsets"]),
        (file_bytes({"a": {**_entry(0, 1), "more": 1}}, b"1"), ["'a'", "alone"]),
        (file_bytes({"a": _entry(0, 1, dtype="F7")}, b"1"), ["'a'", "'F7'"]),
        (file_bytes({"a": _entry(0, 1, dtype=["U8"])}, b"1"), ["'a'", "['U8']"]),
        (file_bytes({"a": _entry(0, 1, shape=[-1])}, b"1"), ["'a'", "[-1]"]),
        (file_bytes({"a": _entry(0, 1, shape=[1.0])}, b"1"), ["'a'", "[1.0]"]),
        (file_bytes({"a": _entry(0, 1, shape=[True])}, b"1"), ["'a'", "[True]"]),
        (file_bytes({"a": _entry(0, 1, shape={})}, b"1"), ["'a'", "{}"]),
        (file_bytes({"a": {**_entry(0, 1), "data_offsets": [1, 0]}}, b"1"), ["'a'", "[1, 0]"]),
        (file_bytes({"a": {**_entry(0, 1), "data_offsets": [0]}}, b"1"), ["'a'", "[0]"]),
        (file_bytes({"a": {**_entry(0, 1), "data_offsets": [0, 2**70]}}, b"1"), ["'a'", "offsets"]),
        (file_bytes({"a": _entry(0, 3, [1], "F32")}, b"123"), ["'a'", "3 bytes", "F32", "[1]"]),
        (file_bytes({"a": _entry(0, 1, [2**52, 2**52])}, b"1"), ["'a'", "1 bytes"]),
        (file_bytes({"a": _entry(0, 2), "b": _entry(1, 3)}, b"123"), ["'b'", "byte 1", "not at 2"]),
        (file_bytes({"a": _entry(0, 2), "b": _entry(0, 2)}, b"12"), ["'b'", "byte 0", "not at 2"]),
        (file_bytes({"a": _entry(0, 2), "b": _entry(3, 4)}, b"1234"), ["'b'", "byte 3", "not at 2"]),
        (file_bytes({"a": _entry(1, 2)}, b"12"), ["'a'", "byte 1", "not at 0"]),
        (file_bytes({"a": _entry(0, 2)}, b"123"), ["more than its tensors"]),
        (file_bytes({"a": _entry(0, 2)}, b"1"), ["cut off"]),
        (file_bytes({}, b"1"), ["more than its tensors"]),
    ],
)
def test_a_damaged_header_is_refused_by_name(tmp_path: Path, held: bytes, parts: list[str]) -> None:
    path = tmp_path / "f.safetensors"
    path.write_bytes(held)
    with refused_unchanged(tmp_path, ValueError, path, *parts):
        read_checkpoint(path)


def test_a_header_of_more_than_the_library_s_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        file.truncate(200_000_000)  # a hole, no space
    with pytest.raises(ValueError, match="100000001 bytes"):
        read_weights(tmp_path / "f")


@given(st.binary(max_size=60), st.integers(0, 70))
def test_whatever_the_bytes_are_they_are_read_or_refused(tmp_path_factory: Any, held: bytes, length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + held)
    with contextlib.suppress(ValueError):  # any other error fails the test
        assert read_weights(path).tensors == ()


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.index.json")
    for name in ("pipe", "pipe.index.json"):
        with pytest.raises(ValueError, match=f"{name} is not a regular file"):
            read_checkpoint(tmp_path / name)
    with pytest.raises(ValueError, match="is a folder"):
        read_checkpoint(tmp_path)
    with pytest.raises(OSError, match="nowhere"):
        read_checkpoint(tmp_path / "nowhere")


def test_a_claimed_shape_takes_no_time_to_multiply() -> None:
    assert bounded_numel([2**52] * 300_000) >= 2**63
    assert bounded_numel([2**52] * 300_000 + [0]) == 0
    assert StoredTensor("t", "U8", (2**52,) * 300_000 + (0,), 0, 0).numel == 0
    assert bounded_numel([]) == 1
    assert bounded_numel([3, 4]) == 12


@pytest.mark.parametrize("width", sorted(set(WIDTHS.values())))
def test_pieces_cover_everything_once_and_split_no_element(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_files, "PIECE", 20)
    for count in range(12):
        found = list(pieces(5, 5 + count * width, width))
        assert [place for begin, end in found for place in range(begin, end)] == list(range(5, 5 + count * width))
        assert all((end - begin) % width == 0 and end - begin <= 20 for begin, end in found)


# Sharded checkpoints.

SHARDS = {"1.safetensors": {"a": random_tensor("F32", (3,))}, "2.safetensors": {"b": random_tensor("U8", (4,))}}


def test_a_sharded_checkpoint_is_all_its_files_tensors(tmp_path: Path) -> None:
    found = read_checkpoint(write_sharded(tmp_path, SHARDS))
    assert found.sharded
    assert [file.path.name for file in found.files] == list(SHARDS)
    assert found.tensors().keys() == {"a", "b"}
    assert not read_checkpoint(tmp_path / "1.safetensors").sharded


@pytest.mark.parametrize(
    ("places", "parts"),
    [
        ({"a": "../1.safetensors"}, ["'../1.safetensors'", "own folder"]),
        ({"a": "/etc/passwd"}, ["'/etc/passwd'", "own folder"]),
        ({"a": "below/1.safetensors"}, ["'below/1.safetensors'", "own folder"]),
        ({"a": ".."}, ["'..'", "own folder"]),
        ({"a": "."}, ["'.'", "own folder"]),
        ({"a": ""}, ["''", "own folder"]),
        ({"a": "1\0"}, ["'1\\x00'", "own folder"]),
        ({"a": 1}, ["1", "own folder"]),
        ({"a": "1.safetensors"}, []),
        ({"a": "1.safetensors", "b": "1.safetensors"}, ["'b'", "in 1.safetensors, but it is not"]),
        ({"a": "1.safetensors", "b": "2.safetensors", "c": "2.safetensors"}, ["'c'", "2.safetensors", "is not"]),
        ({"a": "2.safetensors", "b": "1.safetensors"}, ["'a'", "2.safetensors", "is not"]),
        ({"a": "1.safetensors", "b": "3.safetensors"}, ["'a'", "both 1.safetensors and 3.safetensors"]),
        ({"b": "2.safetensors", "c": "3.safetensors"}, ["does not name tensor 'a'", "3.safetensors"]),
        ({}, ["no weight_map"]),
        (["1.safetensors"], ["no weight_map"]),
    ],
)
def test_an_index_that_does_not_tell_the_truth_is_refused(tmp_path: Path, places: object, parts: list[str]) -> None:
    index = write_sharded(tmp_path, {**SHARDS, "3.safetensors": SHARDS["1.safetensors"]})
    index.write_text(json.dumps({"weight_map": places}))
    if not parts:  # the whole truth about one file
        assert read_checkpoint(index).tensors().keys() == {"a"}
        return
    with refused_unchanged(tmp_path, ValueError, index, *parts):
        read_checkpoint(index)


def test_an_index_whose_files_are_missing_or_links_is_refused(tmp_path: Path) -> None:
    index = write_sharded(tmp_path, SHARDS)
    (tmp_path / "2.safetensors").rename(tmp_path / "elsewhere")
    with refused_unchanged(tmp_path, OSError, "2.safetensors"):
        read_checkpoint(index)
    (tmp_path / "2.safetensors").symlink_to("elsewhere")
    with refused_unchanged(tmp_path, ValueError, "2.safetensors", "symbolic link"):
        read_checkpoint(index)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": 1}', '{"weight_map": {"a": "x", "a": "y"}}'])
def test_a_text_that_is_no_index_is_refused(tmp_path: Path, text: str) -> None:
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(text)
    with refused_unchanged(tmp_path, ValueError, index):
        read_checkpoint(index)


def test_the_files_are_only_read(tmp_path: Path) -> None:
    index = write_sharded(tmp_path, SHARDS)
    write(tmp_path / "f", {"t": Tensor("U8", (1,), b"1")})
    before = contents(tmp_path)
    read_checkpoint(index)
    read_checkpoint(tmp_path / "f")
    assert contents(tmp_path) == before
    assert header_of({"t": Tensor("U8", (1,), b"1")}) == {"t": _entry(0, 1)}
