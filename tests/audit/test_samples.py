"""Hashes of samples: what they are of, what they tell, and what they hide."""

from __future__ import annotations

import hashlib
import hmac
import stat
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fgunlearn import audit
from fgunlearn.audit.samples import set_hash

SALT = bytes(range(32))
X, Y = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]), torch.tensor([5, 6, 5])


def test_the_hash_is_that_of_a_header_and_the_rows_bytes() -> None:
    message = b'{"x":{"dtype":"F32","shape":[2]},"y":{"dtype":"I64","shape":[]}}\n' + struct.pack("<ffq", 3.0, 4.0, 6)
    assert audit.sample_hashes({"y": Y, "x": X}, None)[1] == hashlib.sha256(message).hexdigest()
    assert audit.sample_hashes({"x": X, "y": Y}, SALT)[1] == hmac.new(SALT, message, "sha256").hexdigest()


def test_equal_samples_have_equal_hashes_and_nothing_else_has() -> None:
    first, second, third = audit.sample_hashes({"x": X, "y": Y}, SALT)
    assert first == third != second
    variants: list[dict[str, Tensor]] = [
        {"x": X, "y": Y},
        {"x": X, "y": Y + 1},
        {"x": X.double(), "y": Y},
        {"x": X[:, None], "y": Y},
        {"x": X, "z": Y},
        {"x": X},
    ]
    assert len({audit.sample_hashes(parts, SALT)[0] for parts in variants}) == len(variants)
    assert audit.sample_hashes({"x": X, "y": Y}, audit.new_salt())[0] != first


def test_a_guessed_sample_is_found_among_plain_hashes_and_not_among_salted_ones() -> None:
    candidates = {"x": torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0)), "y": torch.full((25,), 5)}
    guesses = set(audit.sample_hashes(candidates, None))
    sample = {"x": X[:1], "y": Y[:1]}
    assert audit.sample_hashes(sample, None)[0] in guesses
    assert audit.sample_hashes(sample, SALT)[0] not in guesses


def test_the_sets_hash_is_that_of_the_sorted_lines() -> None:
    hashes = audit.sample_hashes({"x": X, "y": Y}, None)
    lines = "".join(sorted(f"{each}\n" for each in hashes))
    assert set_hash(hashes) == set_hash(reversed(hashes)) == hashlib.sha256(lines.encode()).hexdigest()


def test_data_are_described_by_hashes_and_counts_alone() -> None:
    heldout = [{"x": X[:1] + 9, "y": Y[:1]}]
    found = audit.data_of([(X[:1], Y[:1])], [(X[1:], Y[1:])], heldout, salt=SALT, steered=True)
    hashes = audit.sample_hashes({"x": X, "y": Y}, SALT)
    assert found == {
        "hash": "HMAC-SHA-256",
        "salt_sha256": hashlib.sha256(SALT).hexdigest(),
        "forgotten": {"count": 1, "samples": [hashes[0]], "set": set_hash(hashes[:1])},
        "retained": {"count": 2, "set": set_hash(hashes[1:])},
        "heldout": {
            "count": 1,
            "set": set_hash(audit.sample_hashes(heldout[0], SALT)),
            "copies": 0,
            "seen_by_unlearning": True,
        },
        "copies": 1,  # the last row is the first one again
    }
    alone = audit.data_of([(X, Y)], salt=None)
    assert (alone["hash"], alone["salt_sha256"]) == ("SHA-256", None)
    assert alone["retained"] is alone["heldout"] is alone["copies"] is None
    assert alone["forgotten"]["samples"] == sorted(audit.sample_hashes({"x": X, "y": Y}, None))


def test_a_salt_is_kept_in_a_file_for_its_owner_alone(tmp_path: Path) -> None:
    path, salt = tmp_path / "salt", audit.new_salt()
    audit.write_salt(path, salt)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert audit.read_salt(path, "--salt") == salt
    with pytest.raises(FileExistsError):
        audit.write_salt(path, salt)


@pytest.mark.parametrize("text", [b"", b"00" * 31, b"0g" * 32, b"\xff" * 64, b"00" * 33])
def test_what_is_no_salt_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "salt"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=r"--salt: .*salt must hold a salt, 64 hexadecimal digits"):
        audit.read_salt(path, "--salt")


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--salt: can't read .*nowhere"):
        audit.read_salt(tmp_path / "nowhere", "--salt")
    with pytest.raises(ValueError, match="salt must be 32 bytes long, got 3"):
        audit.sample_hashes({"x": X}, b"abc")
    with pytest.raises(TypeError, match="salt must be bytes or None, got str"):
        audit.sample_hashes({"x": X}, "ab" * 16)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a sample must have a part, got none"):
        audit.sample_hashes({}, None)
    with pytest.raises(ValueError, match=r"'y' must have one row per sample like 'x', got shapes \(2,\) and \(3, 2\)"):
        audit.sample_hashes({"x": X, "y": Y[:2]}, None)
    with pytest.raises(TypeError, match="forget: 'x' must be a tensor, got list"):
        audit.data_of([([1], Y)], salt=None)
    with pytest.raises(TypeError, match=r"retain: a batch must be \(x, y\) or a mapping of tensors .*, got Tensor"):
        audit.data_of([(X, Y)], [X], salt=None)
    with pytest.raises(ValueError, match="heldout has no sample"):
        audit.data_of([(X, Y)], None, [], salt=None)
