"""What a patch file says: hashes, counts, metadata, versions, its own digest."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from checkpoints import Files, Tensor, changed_at, random_tensor, write
from fgunlearn import _host, audit, patch
from fgunlearn.checkpoint_files import read_weights


def test_every_tensor_is_named_with_its_hashes_and_counts(files: Files) -> None:
    made = patch.inspect(files.patch)
    assert made == patch.create(files.base, files.new, files.patch)
    assert (made.path, made.size) == (files.patch, files.patch.stat().st_size)
    assert {tensor.name: tensor.changed for tensor in made.tensors} == {"w": 3, "b": 3, "n": 0}
    assert made.changed == 6
    for path, which in ((files.base, "base_sha256"), (files.new, "result_sha256")):
        held = path.read_bytes()
        for tensor in read_weights(path).tensors:
            said = next(each for each in made.tensors if each.name == tensor.name)
            assert getattr(said, which) == hashlib.sha256(held[tensor.begin : tensor.end]).hexdigest()
            assert (said.dtype, said.shape, said.numel) == (tensor.dtype, tensor.shape, tensor.numel)


def test_the_hashes_are_those_of_audit_records(files: Files) -> None:
    found = audit.patch_hashes(files.patch)
    assert found["base"] == audit.fingerprint(files.base)
    assert found["result"] == audit.fingerprint(files.new)
    assert found["changed"] == {"w": 3, "b": 3}
    assert found["sha256"] == hashlib.sha256(files.patch.read_bytes()).hexdigest()


def test_the_safetensors_library_reads_a_patch(tmp_path: Path) -> None:
    tensors = {"w": random_tensor("F32", (300,)), "n": random_tensor("I64", (9,)), "b": random_tensor("U8", (5,))}
    after = {
        "w": changed_at(tensors["w"], [0, 1, 200]),
        "n": changed_at(tensors["n"], [8]),
        "b": changed_at(tensors["b"], [2]),
    }
    patch.create(write(tmp_path / "a", tensors), write(tmp_path / "b", after), tmp_path / "p")
    with safe_open(tmp_path / "p", "np") as held:
        assert set(held.keys()) == {f"{name}.{which}" for name in "wnb" for which in ("gaps", "old", "new")}
        assert held.get_tensor("w.gaps").tolist() == [0, 1, 0xC7, 0x01]  # 199 in two bytes
        assert held.get_tensor("n.gaps").tolist() == [8]
        for name, positions in (("w", [0, 1, 200]), ("n", [8]), ("b", [2])):
            for which, side in (("old", tensors), ("new", after)):
                dtype = {"F32": np.float32, "I64": np.int64, "U8": np.uint8}[side[name].dtype]
                expected = np.frombuffer(side[name].data, dtype)[positions]
                assert held.get_tensor(f"{name}.{which}").tobytes() == expected.tobytes()


def test_metadata_comes_back_as_it_was_given(files: Files) -> None:
    given: dict[str, Any] = {
        "strategy": {"name": "topk", "ratio": 0.01, "layers": ["a", "b"], "none": None, "yes": True},
        "wörter": "Zeilen\nund \u2028 Zeichen \U0001f600",
        "steps": 12,
        "loss": -1.5e-300,
    }
    made = patch.create(files.base, files.new, files.patch, metadata=given)
    assert made.metadata == patch.inspect(files.patch).metadata == audit.patch_hashes(files.patch)["metadata"] == given


def test_tuples_and_large_seeds_are_written_as_json_can_say_them(files: Files) -> None:
    made = patch.create(files.base, files.new, files.patch, metadata={"seeds": (1, 2**64 - 1, -(2**53))})
    assert made.metadata == {"seeds": [1, str(2**64 - 1), str(-(2**53))]}


def test_the_same_change_is_the_same_file(files: Files) -> None:
    first = files.patch.read_bytes()
    patch.create(files.base, files.new, files.folder / "again", metadata={})
    assert (files.folder / "again").read_bytes() == first
    patch.create(files.base, files.new, files.patch, metadata={"a": 1})
    assert files.patch.read_bytes() != first


def test_a_newer_version_is_told_from_damage(files: Files) -> None:
    """Before the digest is looked at: the newer version may have another."""
    held = files.patch.read_bytes()
    files.patch.write_bytes(held.replace(b'"version":"1"', b'"version":"2"'))
    with pytest.raises(ValueError, match=r"format version '2', newer than 1, the newest that this fgunlearn reads"):
        patch.inspect(files.patch)
    files.patch.write_bytes(held.replace(b"fgunlearn patch", b"fgunlearn Patch"))
    with pytest.raises(ValueError, match="not a forget patch"):
        patch.inspect(files.patch)


def test_a_digest_in_other_letters_is_not_the_digest(files: Files) -> None:
    held = files.patch.read_bytes()
    digest = json.loads(held[8 : 8 + int.from_bytes(held[:8], "little")])["__metadata__"]["sha256"].encode()
    files.patch.write_bytes(held.replace(digest, digest.upper()))
    with pytest.raises(ValueError, match="damaged or was altered"):
        patch.inspect(files.patch)


# The compiled part, against a plain version of it.


def _gaps(positions: list[int]) -> bytes:
    found = bytearray()
    for before, position in zip([0, *positions], positions, strict=False):
        gap = position - before
        while gap >= 0x80:
            found.append(gap & 0x7F | 0x80)
            gap >>= 7
        found.append(gap)
    return bytes(found)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 63, 64, 65, 1000])
def test_differences_and_their_exchange_in_pieces(width: int, count: int) -> None:
    generator = random.Random(count * width)
    base = Tensor({1: "U8", 2: "U16", 4: "U32", 8: "U64"}[width], (count,), generator.randbytes(count * width))
    for share in (0.0, 0.01, 0.5, 1.0):
        positions = [place for place in range(count) if generator.random() < share]
        new = changed_at(base, positions) if count else base
        cuts = sorted({0, count, *(generator.randint(0, count) for _ in range(4))})
        spans = [slice(begin * width, end * width) for begin, end in itertools.pairwise(cuts)]
        found = _host.Differences(width)
        for span, begin, end in zip(spans, cuts[:-1], cuts[1:], strict=True):
            assert found.add(base.data[span], new.data[span]) == any(begin <= place < end for place in positions)
        assert (found.count, found.gaps) == (len(positions), _gaps(positions))
        _host.check_gaps(found.gaps, len(positions), count)
        exchange = _host.Exchange(found.gaps, found.old_values, found.new_values, width, count)
        result = b""
        for span in spans:
            piece = bytearray(base.data[span])
            if exchange.next_changes(len(piece) // width):
                exchange.put(piece)
            result += piece
        assert result == new.data


def test_positions_beyond_32_bits() -> None:
    gaps = _gaps([3, 2**40, 2**40 + 300])
    _host.check_gaps(gaps, 3, 2**40 + 301)
    with pytest.raises(ValueError, match=f"index {2**40 + 300} is out of range for {2**40 + 300} elements"):
        _host.check_gaps(gaps, 3, 2**40 + 300)
    exchange = _host.Exchange(gaps, bytes(3), b"abc", 1, 2**40 + 301)
    first, last = bytearray(4), bytearray(301)
    exchange.put(first)
    assert not exchange.next_changes(2**40 - 4)
    exchange.put(last)
    assert first == b"\0\0\0a"
    assert last == b"b" + bytes(299) + b"c"


def test_after_a_flaw_there_is_no_further_position() -> None:
    """The one after it could lie before the piece: writing there would be writing to somebody else's memory."""
    around = bytearray(64)
    exchange = _host.Exchange(bytes([2, 0, 1, 1]), bytes(4), b"\xff" * 4, 1, 1000)
    with pytest.raises(ValueError, match="index 2 comes twice"):
        exchange.put(memoryview(around)[16:32], False)
    for _ in range(3):
        with pytest.raises(ValueError, match="index 2 comes twice"):
            exchange.put(memoryview(around)[32:48], False)
        with pytest.raises(ValueError, match="index 2 comes twice"):
            exchange.next_changes(16)
    assert [place for place, value in enumerate(around) if value] == [18]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _host.Differences(3), "width must be 1, 2, 4 or 8 bytes, got 3"),
        (lambda: _host.Differences(2).add(b"123", b"123"), "old_values has 3 bytes, no multiple of 2"),
        (lambda: _host.Differences(1).add(b"12", b"1"), "old_values has 2 bytes, new_values 1"),
        (lambda: _host.Differences(1).add(np.zeros(4, np.int16), bytes(8)), "old_values must be contiguous bytes"),
        (lambda: _host.Differences(1).add(bytes(4), np.zeros(8, "u1")[::2]), "new_values must be contiguous bytes"),
        (lambda: _host.Exchange(b"", b"", b"", 0, 1), "width must be 1, 2, 4 or 8 bytes, got 0"),
        (lambda: _host.Exchange(b"", b"", b"", 1, -1), "numel must be >= 0, got -1"),
        (lambda: _host.Exchange(b"", b"12", b"1", 1, 5), "from_values has 2 bytes, to_values 1"),
        (lambda: _host.Exchange(b"", b"123", b"123", 2, 5), "from_values has 3 bytes, no multiple of 2"),
        (lambda: _host.Exchange(b"", b"", b"", 2, 5).put(bytearray(3)), "piece has 3 bytes, no multiple of 2"),
        (lambda: _host.Exchange(b"", b"", b"", 2, 5).next_changes(-1), "count must be >= 0, got -1"),
        (lambda: _host.check_gaps(b"", -1, 1), "count must be >= 0, got -1"),
        (lambda: _host.check_gaps(b"", 0, -1), "numel must be >= 0, got -1"),
        (lambda: _host.check_gaps(b"", 1, 1), "positions end too early"),
    ],
)
def test_the_compiled_part_takes_no_buffer_that_does_not_fit(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
    with pytest.raises(BufferError):
        _host.Exchange(b"", b"", b"", 1, 5).put(b"read only")
