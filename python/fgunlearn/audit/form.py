"""The form of a record: which fields hold what. Whatever a check doesn't look at has no place to be in."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from fgunlearn.audit.samples import PLAIN, SALTED

KINDS = ("unlearn", "patch")
PARTS = ("forget", "retain", "heldout", "membership")
"""What is measured of a model."""
METRICS = ("base", "result", "unlearning_degree")

_HASH = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_OBJECTS = ("base", "result", "seeds", "versions", "machine", "seconds", "statement")
_OPTIONAL = (
    *("data", "method", "selection", "perturbation", "repair", "changed", "patch", "metrics", "relearning"),
    "signature",
)


def check_form(fields: Mapping[str, Any]) -> None:
    """Refuses what is no record; what the fields say may still be anything.

    Raises:
        TypeError, ValueError: the field is named.
    """
    if fields["kind"] not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {fields['kind']!r}")
    if not isinstance(fields["created"], str) or _TIME.fullmatch(fields["created"]) is None:
        raise ValueError(f"created must be a time like 2026-01-31T12:00:00Z, got {fields['created']!r}")
    if not isinstance(fields["sha256"], str) or (fields["sha256"] and not is_hash(fields["sha256"])):
        raise ValueError(f"sha256 must be 64 hexadecimal digits, got {fields['sha256']!r}")
    for name in (*_OBJECTS, *_OPTIONAL):
        value = fields[name]
        if not isinstance(value, dict) and not (value is None and name in _OPTIONAL):
            raise TypeError(f"{name} must be an object, got {value!r:.80}")
    needed = {"unlearn": "method", "patch": "patch"}[fields["kind"]]
    if fields[needed] is None:
        raise ValueError(f"{needed} must be an object in a record of kind {fields['kind']!r}, got None")
    for name in ("base", "result"):
        _check_tensors(fields[name], name)
    for name, check in (
        ("data", _check_data),
        ("changed", _check_changed),
        ("patch", _check_patch),
        ("metrics", _check_metrics),
        ("relearning", _check_relearning),
        ("signature", _check_signature),
    ):
        if fields[name] is not None:
            check(fields[name])
    if not all(isinstance(each, (str, int)) for each in fields["seeds"].values()):
        raise TypeError(f"seeds must be whole numbers by name, got {fields['seeds']!r:.80}")


def is_hash(value: object) -> bool:
    """Whether it is 64 hexadecimal digits, in lower case."""
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def is_count(value: object) -> bool:
    """Whether it is a whole number from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _has(value: object, names: Collection[str], what: str) -> dict[str, Any]:
    """The value, an object of these members and no others."""
    if not isinstance(value, dict):
        raise TypeError(f"{what} must be an object, got {value!r:.80}")
    for name in names:
        if name not in value:
            raise ValueError(f"{what} has no member {name!r}")
    for name in value:
        if name not in names:
            raise ValueError(f"{what} has the unknown member {name!r}")
    return value


def _check_tensors(tensors: Mapping[str, Any], part: str) -> None:
    for name, entry in tensors.items():
        what = f"{part}: {name!r}"
        if not isinstance(entry, dict) or not is_hash(entry.get("sha256")):
            raise ValueError(f"{what} must have a sha256 of 64 hexadecimal digits, got {entry!r:.80}")
        # A patch's record may know hashes alone.
        _has(entry, ("dtype", "shape", "sha256") if len(entry) > 1 else ("sha256",), what)
        if len(entry) > 1:
            shape = entry["shape"]
            if not isinstance(entry["dtype"], str):
                raise TypeError(f"{what} must have a dtype like 'F32', got {entry['dtype']!r:.80}")
            if not isinstance(shape, list) or not all(map(is_count, shape)):
                raise ValueError(f"{what} must have a shape like [2, 3], got {shape!r:.80}")


def _check_data(data: dict[str, Any]) -> None:
    if data.get("hash") not in (SALTED, PLAIN):
        raise ValueError(f"data: hash must be {SALTED!r} or {PLAIN!r}, got {data.get('hash')!r:.80}")
    _has(data, ("hash", "salt_sha256", "forgotten", "retained", "heldout", "copies"), "data")
    if not (is_hash(data["salt_sha256"]) if data["hash"] == SALTED else data["salt_sha256"] is None):
        raise ValueError(f"data: salt_sha256 must be a hash with {SALTED}, and null with {PLAIN}")
    samples = _has(data["forgotten"], ("count", "samples", "set"), "data: forgotten")["samples"]
    if not isinstance(samples, list) or not all(map(is_hash, samples)):
        raise ValueError("data: forgotten must have a list of samples, each 64 hexadecimal digits")
    _check_set(data["forgotten"], "forgotten")
    if data["retained"] is not None:
        _check_set(_has(data["retained"], ("count", "set"), "data: retained"), "retained")
    _check_copies(data, data["retained"], "data")
    heldout = data["heldout"]
    if heldout is not None:
        _has(heldout, ("count", "set", "copies", "seen_by_unlearning"), "data: heldout")
        _check_set(heldout, "heldout")
        _check_copies(heldout, data["retained"], "data: heldout")
        if not isinstance(heldout["seen_by_unlearning"], (bool, type(None))):
            raise TypeError(f"data: seen_by_unlearning must be a bool, got {heldout['seen_by_unlearning']!r:.80}")


def _check_set(found: Mapping[str, Any], part: str) -> None:
    if not is_count(found["count"]):
        raise ValueError(f"data: {part} must have a count from 0 on, got {found['count']!r:.80}")
    if not is_hash(found["set"]):
        raise ValueError(f"data: {part} must have a set of 64 hexadecimal digits, got {found['set']!r:.80}")


def _check_copies(found: Mapping[str, Any], retained: object, what: str) -> None:
    copies = found["copies"]
    if not (copies is None if retained is None else is_count(copies)):
        raise ValueError(f"{what}: copies must be a count if retained is there, and null if not, got {copies!r:.80}")


def _check_changed(changed: object) -> None:
    held = _has(changed, ("values", "buffers"), "changed")
    values, buffers = held["values"], held["buffers"]
    if not isinstance(values, dict) or not all(map(is_count, values.values())):
        raise ValueError(f"changed: values must be counts by tensor, got {values!r:.80}")
    if not isinstance(buffers, list) or not all(isinstance(each, str) for each in buffers):
        raise ValueError(f"changed: buffers must be a list of names, got {buffers!r:.80}")


def _check_patch(patch: object) -> None:
    held = _has(patch, ("sha256", "metadata"), "patch")
    if held["sha256"] is not None and not is_hash(held["sha256"]):
        raise ValueError(f"patch: sha256 must be 64 hexadecimal digits or null, got {held['sha256']!r:.80}")
    if not isinstance(held["metadata"], dict):
        raise TypeError(f"patch: metadata must be an object, got {held['metadata']!r:.80}")


def _check_metrics(metrics: object) -> None:
    held = _has(metrics, METRICS, "metrics")
    for name in METRICS:
        if held[name] is not None and not isinstance(held[name], dict):
            raise TypeError(f"metrics: {name} must be an object or null, got {held[name]!r:.80}")
    for name in ("base", "result"):
        if held[name] is not None:
            _has(held[name], PARTS, f"metrics: {name}")


def _check_relearning(relearning: object) -> None:
    held = _has(relearning, ("options", "retrained_sha256", "as_is", "rounded"), "relearning")
    for name in ("options", "as_is", "rounded"):
        if not isinstance(held[name], dict):
            raise TypeError(f"relearning: {name} must be an object, got {held[name]!r:.80}")
    if held["retrained_sha256"] is not None and not is_hash(held["retrained_sha256"]):
        raise ValueError(f"relearning: retrained_sha256 must be a hash or null, got {held['retrained_sha256']!r:.80}")


def _check_signature(signature: object) -> None:
    for name, value in _has(signature, ("algorithm", "key_sha256", "value"), "signature").items():
        if not isinstance(value, str):
            raise TypeError(f"signature: {name} must be text, got {value!r:.80}")
