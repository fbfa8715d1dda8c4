"""The record and its document: complete, hashed, and read strictly."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from audited import Unlearned, at, places, with_other
from fgunlearn import audit
from fgunlearn.canonical_json import canonical, indented


def document_of(unlearned: Unlearned) -> dict[str, Any]:
    return json.loads(unlearned.record.text())


def read(document: object) -> audit.AuditRecord:
    return audit.AuditRecord.from_text(indented(document))


def test_it_comes_back_from_a_file_as_it_was(unlearned: Unlearned, tmp_path: Path) -> None:
    unlearned.record.save(tmp_path / "audit.json")
    loaded = audit.AuditRecord.load(tmp_path / "audit.json")
    assert loaded == unlearned.record
    assert loaded.intact
    assert loaded.text() == (tmp_path / "audit.json").read_bytes()


def test_the_hash_is_that_of_the_canonical_document_without_hash_and_signature(unlearned: Unlearned) -> None:
    document = document_of(unlearned)
    stated = document.pop("sha256")
    del document["signature"]
    assert hashlib.sha256(canonical(document)).hexdigest() == stated == unlearned.record.digest
    assert unlearned.record.canonical() == canonical(document)


def test_white_space_and_the_order_of_members_do_not_matter(unlearned: Unlearned) -> None:
    document = document_of(unlearned)
    backwards = json.dumps(dict(reversed(document.items())), indent=7).encode()
    assert audit.AuditRecord.from_text(backwards) == unlearned.record
    assert audit.AuditRecord.from_text(backwards).intact


def test_whatever_is_altered_is_told(unlearned: Unlearned) -> None:
    document = document_of(unlearned)
    altered = 0
    for place in places(document):
        value = at(document, place)
        if isinstance(value, (dict, list)) or place[0] in ("sha256", "signature"):
            continue
        other = {bool: not value, str: f"{value}x", type(None): 0}.get(type(value), 1)
        other = value + 1 if type(value) in (int, float) else other
        with contextlib.suppress(ValueError):  # or it isn't a record any more
            assert not read(with_other(document, place, other)).intact, place
        altered += 1
    assert altered > 200
    assert not read({**document, "sha256": "0" * 64}).intact


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(audit.AuditRecord)])
def test_no_field_may_be_missing_nor_be_something_else(unlearned: Unlearned, field: str) -> None:
    document = document_of(unlearned)
    without = {name: value for name, value in document.items() if name != field}
    with pytest.raises(ValueError, match=f"the record has no field '{field}'"):
        read(without)
    with pytest.raises(ValueError, match=field):
        read({**document, field: 5})


def test_it_holds_no_sample_and_no_path(unlearned: Unlearned) -> None:
    text = unlearned.record.text().decode()
    assert unlearned.evidence.base is not None
    assert str(unlearned.evidence.base.parent) not in text
    x = unlearned.forget[0][0]
    numbers = {float(each) for each in re.findall(r"-?\d+\.\d+(?:e[+-]\d+)?", text)}
    assert not numbers & {*x.flatten().tolist()}
    assert bytes(range(32)).hex() not in text  # the salt


def test_it_says_what_it_proves_and_what_it_does_not(unlearned: Unlearned) -> None:
    statement = unlearned.record.statement
    assert set(statement) == {"verifiable", "not_proved"}
    assert any("influence of the samples is gone" in line for line in statement["not_proved"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "has version 2; this fgunlearn reads audit records up to 1"),
        ({"version": "1"}, "version must be a whole number from 1 on, got '1'"),
        ({"version": 0}, "version must be a whole number from 1 on, got 0"),
        ({"format": "something"}, 'is not an audit record: it has no "format": "fgunlearn-audit"'),
        ({"colour": "red"}, "has the unknown field 'colour'"),
        ({"kind": "guess"}, "kind must be one of 'unlearn', 'patch', got 'guess'"),
        ({"created": "yesterday"}, "created must be a time like"),
        ({"sha256": ""}, "sha256 must be 64 hexadecimal digits, got ''"),
        ({"sha256": "A" * 64}, "sha256 must be 64 hexadecimal digits"),
        ({"base": {"a": {"sha256": "0"}}}, "base: 'a' must have a sha256 of 64 hexadecimal digits"),
        ({"result": {"a": None}}, "result: 'a' must have a sha256 of 64 hexadecimal digits, got None"),
        ({"base": {"a": {"sha256": "0" * 64, "note": "approved"}}}, "base: 'a' has no member 'dtype'"),
        (
            {"base": {"a": {"dtype": "F32", "shape": [-1], "sha256": "0" * 64}}},
            "base: 'a' must have a shape like [2, 3], got [-1]",
        ),
        ({"method": None}, "method must be an object in a record of kind 'unlearn', got None"),
        ({"kind": "patch"}, "patch must be an object in a record of kind 'patch', got None"),
        ({"changed": {"values": {"a": 1}}}, "changed has no member 'buffers'"),
        ({"changed": {"values": {"a": -1}, "buffers": []}}, "changed: values must be counts by tensor"),
        ({"patch": {"sha256": "x", "metadata": {}}}, "patch: sha256 must be 64 hexadecimal digits or null, got 'x'"),
        ({"metrics": {"base": None, "result": None}}, "metrics has no member 'unlearning_degree'"),
        ({"relearning": {"all": "well"}}, "relearning has no member 'options'"),
        ({"seeds": {"data": None}}, "seeds must be whole numbers by name"),
        ({"signature": {"algorithm": "Ed25519", "value": ""}}, "signature has no member 'key_sha256'"),
    ],
)
def test_a_bad_document_is_refused(unlearned: Unlearned, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read({**document_of(unlearned), **change})


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((), {}, "data: hash must be 'HMAC-SHA-256' or 'SHA-256', got None"),
        (("hash",), "SHA-256", "salt_sha256 must be a hash with HMAC-SHA-256, and null with SHA-256"),
        (("salt_sha256",), None, "salt_sha256 must be a hash with HMAC-SHA-256"),
        (("forgotten",), None, "data: forgotten must be an object, got None"),
        (("forgotten", "samples", 0), "x", "list of samples, each 64 hexadecimal digits"),
        (("forgotten", "count"), -1, "data: forgotten must have a count from 0 on, got -1"),
        (("forgotten", "names"), ["Ada"], "data: forgotten has the unknown member 'names'"),
        (("retained",), None, "data: copies must be a count if retained is there, and null if not, got 0"),
        (("heldout", "copies"), None, "data: heldout: copies must be a count if retained is there"),
        (("heldout", "seen_by_unlearning"), "no", "seen_by_unlearning must be a bool, got 'no'"),
    ],
)
def test_bad_data_is_refused(unlearned: Unlearned, place: tuple[str | int, ...], value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read(with_other(document_of(unlearned), ("data", *place), value))


def test_a_damaged_file_is_refused_by_its_path(unlearned: Unlearned, tmp_path: Path) -> None:
    path, text = tmp_path / "audit.json", unlearned.record.text()
    for cut in (0, 1, len(text) // 2, len(text) - 2):
        path.write_bytes(text[:cut])
        with pytest.raises(ValueError, match=r"audit\.json is not JSON"):
            audit.AuditRecord.load(path)
    path.write_bytes(text.replace(b'"kind": "unlearn"', b'"kind": "unlearn", "kind": "patch"'))
    with pytest.raises(ValueError, match=r"audit\.json names 'kind' twice"):
        audit.AuditRecord.load(path)
    path.write_bytes(text.replace(b'"version": 1', b'"version": NaN'))
    with pytest.raises(ValueError, match=r"audit\.json holds NaN"):
        audit.AuditRecord.load(path)
    path.write_bytes(b"[1]")
    with pytest.raises(ValueError, match=r"audit\.json is not an audit record"):
        audit.AuditRecord.load(path)
    with pytest.raises(FileNotFoundError):
        audit.AuditRecord.load(tmp_path / "nowhere")
