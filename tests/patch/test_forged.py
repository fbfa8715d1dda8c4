"""Patches that somebody made up, with the right digest: what they claim is held against what is there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoints import Files, Tensor, contents, random_tensor, refused_unchanged, write
from fgunlearn import patch
from forged_patches import Forged

_NOTHING = hashlib.sha256().hexdigest()


def test_a_patch_put_together_from_its_own_parts_is_a_patch(files: Files) -> None:
    """So the refusals below are of what was changed, not of the forging."""
    Forged.of(files.patch).write(files.folder / "forged")
    found = patch.apply(files.base, files.folder / "forged", files.folder / "out")
    assert (files.folder / "out").read_bytes() == files.new.read_bytes()
    assert found.tensors == patch.inspect(files.patch).tensors


def _entry(key: str, value: object, name: str = "w") -> Callable[[Forged], None]:
    return lambda forged: forged.entry(name).__setitem__(key, value)


def _gaps(*data: int) -> Callable[[Forged], None]:
    return lambda forged: forged.put("w.gaps", bytes(data))


def _without(part: str) -> Callable[[Forged], None]:
    return lambda forged: forged.parts.__delitem__(part)


def _field(name: str, value: str) -> Callable[[Forged], None]:
    return lambda forged: forged.fields.__setitem__(name, value)


def _part(name: str, part: Tensor) -> Callable[[Forged], None]:
    return lambda forged: forged.parts.__setitem__(name, part)


def _twice(forged: Forged) -> None:
    forged.entries.append(dict(forged.entries[0]))


def _all_claimed(forged: Forged) -> None:
    forged.entry("w")["changed"] = 35  # of 35, with 3 positions


HUGE = [2**52] * 1000

DAMAGES: dict[str, tuple[Callable[[Forged], None], list[str]]] = {
    # Positions; "w" has three of 35.
    "out of range": (_gaps(0, 1, 34), ["'w'", "index 35 is out of range for 35 elements"]),
    "far out of range": (
        _gaps(1, 1, *[0xFF] * 8, 0x7F),
        ["'w'", "index 9223372036854775809 is out of range for 35 elements"],
    ),
    "duplicate index": (_gaps(4, 0, 1), ["'w'", "index 4 comes twice"]),
    "duplicate first index": (_gaps(0, 0, 1), ["'w'", "index 0 comes twice"]),
    "gap with more bytes than it needs": (_gaps(1, 1, 0x81, 0x00), ["'w'", "more bytes than it needs"]),
    "zero with more bytes than it needs": (_gaps(0x80, 0x00, 1, 1), ["'w'", "more bytes than it needs"]),
    "gap of more than 63 bits": (_gaps(*[0xFF] * 9, 1, 1, 1), ["'w'", "more than 63 bits"]),
    "gaps cut off": (_gaps(1, 1, 0x81), ["'w'", "end too early"]),
    "gaps too many": (_gaps(1, 1, 1, 1), ["'w'", "1 bytes follow"]),
    "gaps too few": (_gaps(1, 1), ["w.gaps has 2 bytes for 3 positions"]),
    "gaps too long": (_gaps(*[1] * 28), ["w.gaps has 28 bytes for 3 positions"]),
    "gaps of another dtype": (_part("w.gaps", Tensor("I8", (3,), b"123")), ["w.gaps is I8", "not U8"]),
    "gaps in two dimensions": (_part("w.gaps", Tensor("U8", (1, 3), b"123")), ["w.gaps is U8 of shape [1, 3]"]),
    "gaps of a huge empty shape": (_part("w.gaps", Tensor("U8", (*HUGE, 0), b"")), ["w.gaps"]),
    # Counts and parts.
    "count too small": (_entry("changed", 2), ["w.old is F32 of shape [3]", "not F32 of [2]"]),
    "count too large": (_entry("changed", 4), ["w.gaps has 3 bytes for 4 positions"]),
    "count beyond the tensor": (_entry("changed", 36), ["'w'", "36 of 35 values"]),
    "count of everything": (_all_claimed, ["w.gaps has 3 bytes for 35 positions"]),
    "count negative": (_entry("changed", -1), ["'w'", "-1 of 35"]),
    "count a float": (_entry("changed", 3.0), ["'w'", "3.0"]),
    "count true": (_entry("changed", True), ["'w'", "True"]),
    "values missing": (_without("w.old"), ["'w'", "there is no w.old"]),
    "gaps missing": (_without("b.gaps"), ["'b'", "there is no b.gaps"]),
    "values too many": (_part("w.new", random_tensor("F32", (4,))), ["w.new is F32 of shape [4]", "[3]"]),
    "values of another dtype": (_part("w.new", random_tensor("I32", (3,))), ["w.new is I32", "not F32"]),
    "an extra part": (_part("x.gaps", random_tensor("U8", (3,))), ["'x.gaps'", "belongs to no tensor"]),
    "parts of a tensor that does not change": (_part("n.old", random_tensor("I64", (1,))), ["'n.old'"]),
    # Entries.
    "hashes equal though values change": (
        lambda forged: forged.entry("w").update(result_sha256=forged.entry("w")["base_sha256"]),
        ["'w'", "3 values change, and its hashes are"],
    ),
    "hashes differ though nothing changes": (_entry("result_sha256", _NOTHING, "n"), ["'n'", "0 values change"]),
    "no hash": (_entry("base_sha256", "F" * 64), ["'w'", "64 hexadecimal digits"]),
    "hash of another length": (_entry("base_sha256", "f" * 63), ["'w'", "64 hexadecimal digits"]),
    "hash a number": (_entry("base_sha256", 1), ["'w'", "64 hexadecimal digits"]),
    "huge shape": (_entry("shape", HUGE), ["'w'", "shape"]),
    "huge shape with nothing in it": (_entry("shape", [*HUGE, 0]), ["'w'", "3 of 0 values"]),
    "negative shape": (_entry("shape", [-5, -7]), ["'w'", "[-5, -7]"]),
    "unknown dtype": (_entry("dtype", "F31"), ["'w'", "'F31'"]),
    "dtype a list": (_entry("dtype", ["F32"]), ["'w'", "['F32']"]),
    "name a number": (_entry("name", 5), ["5", "must be a string"]),
    "an extra member": (_entry("more", 1), ["a tensor must have"]),
    "a missing member": (lambda forged: forged.entry("w").pop("dtype"), ["a tensor must have"]),
    "a tensor twice": (_twice, ["lists a tensor twice"]),
    "tensors no list": (lambda forged: setattr(forged, "entries", {}), ["not a list"]),
    # The patch's own fields.
    "another format": (_field("format", "pt"), ["not a forget patch", "'fgunlearn patch'"]),
    "newer version": (_field("version", "2"), ["version '2'", "newer than 1"]),
    "no version": (_field("version", "one"), ["version 'one'", "not 1"]),
    "version with a zero": (_field("version", "01"), ["version '01'", "not 1"]),
    "older version": (_field("version", "0"), ["version '0'", "not 1"]),
    "an extra field": (_field("more", ""), ["more"]),
    "a missing field": (lambda forged: forged.fields.pop("metadata"), ["its metadata is"]),
    "metadata no object": (_field("metadata", "[]"), ["metadata", "not an object"]),
    "metadata no JSON": (_field("metadata", "{'a': 1}"), ["metadata", "not JSON"]),
    "NaN in metadata": (_field("metadata", '{"a": NaN}'), ["metadata", "NaN"]),
    "a member of metadata twice": (_field("metadata", '{"a": 1, "a": 2}'), ["metadata", "'a' twice"]),
    "metadata no Unicode": (_field("metadata", "\ud800"), ["metadata", "UTF-8"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_does_not_fit_together_is_refused_before_any_checkpoint_is_looked_at(files: Files, damage: str) -> None:
    alter, parts = DAMAGES[damage]
    forged = Forged.of(files.patch)
    alter(forged)
    path = forged.write(files.folder / "forged")
    with refused_unchanged(files.folder, ValueError, path, *parts):
        patch.inspect(path)
    for base in (files.base, files.folder / "nowhere"):
        with refused_unchanged(files.folder, ValueError, path, *parts):
            patch.apply(base, path, in_place=True)


def _other_values(which: str) -> Callable[[Forged], None]:
    return lambda forged: forged.put(f"w.{which}", bytes(12))


def _other_place(forged: Forged) -> None:
    gaps = forged.parts["w.gaps"].data
    forged.put("w.gaps", bytes([gaps[0] ^ 1]) + gaps[1:])


CLAIMS: dict[str, tuple[Callable[[Forged], None], list[str]]] = {
    "wrong old values": (_other_values("old"), ["forged", "'w'", "not what the patch says was there"]),
    "wrong new values": (_other_values("new"), ["forged", "'w'", "does not make", "result"]),
    "wrong place": (_other_place, ["forged", "'w'", "not what the patch says was there"]),
    "wrong result hash": (_entry("result_sha256", _NOTHING), ["forged", "'w'", "does not make", _NOTHING[:12]]),
    "wrong base hash": (_entry("base_sha256", _NOTHING), ["'w'", "not the base of", _NOTHING[:12]]),
    "wrong hash of a tensor that stays": (
        lambda forged: forged.entry("n").update(base_sha256=_NOTHING, result_sha256=_NOTHING),
        ["'n'", "not the base of", _NOTHING[:12]],
    ),
}


@pytest.mark.parametrize("mode", ["new file", "existing file", "in place"])
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_patch_whose_values_are_made_up_is_refused_and_nothing_is_touched(
    files: Files, claim: str, mode: str
) -> None:
    alter, parts = CLAIMS[claim]
    forged = Forged.of(files.patch)
    alter(forged)
    path = forged.write(files.folder / "forged")
    (files.folder / "there").write_text("old")
    out = {"new file": files.folder / "out", "existing file": files.folder / "there", "in place": None}[mode]
    patch.inspect(path)
    with refused_unchanged(files.folder, ValueError, *parts):
        patch.apply(files.base, path, out, in_place=out is None)


@pytest.mark.parametrize("in_place", [True, False])
def test_reverting_with_made_up_old_values_is_refused_as_well(files: Files, in_place: bool) -> None:
    forged = Forged.of(files.patch)
    forged.put("w.old", bytes(12))
    path = forged.write(files.folder / "forged")
    out = None if in_place else files.folder / "out"
    with refused_unchanged(files.folder, ValueError, path, "'w'", "does not make", "patch's base"):
        patch.revert(files.new, path, out, in_place=in_place)


def test_a_tensor_may_be_called_like_a_part_of_another(tmp_path: Path) -> None:
    tensors = {name: random_tensor("U8", (4,), i) for i, name in enumerate(["a", "a.old", "a.gaps", "a.new", "", "."])}
    base = write(tmp_path / "base", tensors)
    new = write(tmp_path / "new", {name: tensor._replace(data=bytes(4)) for name, tensor in tensors.items()})
    patch.create(base, new, tmp_path / "p")
    patch.apply(base, tmp_path / "p", in_place=True)
    assert contents(tmp_path)["base"] == contents(tmp_path)["new"]
