"""The checks of a record's samples: the forgotten ones, the remaining ones and those it was measured on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fgunlearn.audit.document import AuditRecord
from fgunlearn.audit.evidence import Check, Evidence, checked, short
from fgunlearn.audit.samples import SALTED, hashes_of, set_hash

FORGOTTEN, REMAINING, HELDOUT = "forgotten samples", "remaining samples", "held-out samples"
_NEEDS = {FORGOTTEN: "give --data and --forget", REMAINING: "give --data and --forget", HELDOUT: "give --heldout"}


def sample_checks(record: AuditRecord, given: Evidence) -> list[Check]:
    """The list of hashes by itself, and the three sets against samples."""
    data = record.data
    if data is None:
        return [Check(claim, "not checked", "the record names none") for claim in _NEEDS]
    checks = [_listed(data["forgotten"])]
    wrong = _wrong_salt(data, given)
    if wrong is not None:
        return [*checks, Check(FORGOTTEN, "differs", wrong), *_not_checked(data, "with that salt", REMAINING, HELDOUT)]
    if data["hash"] == SALTED and given.salt is None:
        there = given.forget is not None or given.heldout is not None
        return [*checks, *_not_checked(data, "the hashes are salted: give --salt" if there else None, *_NEEDS)]
    hashes = [
        None if loader is None else hashes_of(loader, given.salt, option)
        for loader, option in ((given.forget, "--data"), (given.retain, "--data"), (given.heldout, "--heldout"))
    ]
    forget, retain, heldout = hashes
    return [
        *checks,
        *(
            [_forgotten(data["forgotten"], forget, given.rows)]
            if forget is not None
            else _not_checked(data, None, FORGOTTEN)
        ),
        _remaining(data, forget, retain),
        _heldout(data, forget, retain, heldout),
    ]


def _wrong_salt(data: Mapping[str, Any], given: Evidence) -> str | None:
    if given.salt is None:
        return None
    if data["hash"] != SALTED:
        return "a salt is given, but the record's hashes are plain"
    if data["salt_sha256"] != hashlib.sha256(given.salt).hexdigest():
        return "the salt is not the one that the record was made with"
    return None


def _not_checked(data: Mapping[str, Any], why: str | None, *claims: str) -> list[Check]:
    absent = {claim for claim, part in ((REMAINING, "retained"), (HELDOUT, "heldout")) if data[part] is None}
    return [
        Check(claim, "not checked", "the record names none" if claim in absent else why or _NEEDS[claim])
        for claim in claims
    ]


def _listed(forgotten: Mapping[str, Any]) -> Check:
    samples, differences = forgotten["samples"], []
    if forgotten["count"] != len(samples):
        differences.append(f"the record says {forgotten['count']} samples and lists {len(samples)}")
    if forgotten["set"] != set_hash(samples):
        differences.append("the hash of the set is not that of the samples listed")
    if samples != sorted(samples):
        differences.append("the samples are not in ascending order")
    return checked("the list of forgotten samples", differences, f"{len(samples)} hashes and that of their set")


def _forgotten(stated: Mapping[str, Any], hashes: Sequence[str], rows: Sequence[object] | None) -> Check:
    known, left = set(stated["samples"]), Counter(stated["samples"])
    names = range(len(hashes)) if rows is None else rows
    differences = [
        f"row {name} is not among the record's samples"
        for name, each in zip(names, hashes, strict=True)
        if each not in known
    ]
    left.subtract(hashes)
    missing = sum(count for count in left.values() if count > 0)
    if missing:
        differences.append(f"{missing} of the record's samples are not among those given")
    if len(hashes) != stated["count"]:
        differences.insert(0, f"the record claims {stated['count']} samples, {len(hashes)} are given")
    return checked(FORGOTTEN, differences, f"all {len(hashes)}")


def _remaining(data: Mapping[str, Any], forget: Sequence[str] | None, retain: Sequence[str] | None) -> Check:
    if data["retained"] is None or forget is None or retain is None:
        return _not_checked(data, None, REMAINING)[0]
    differences = _unlike(data["retained"], retain)
    asked = set(forget)
    copies = sum(each in asked for each in retain)
    if copies != data["copies"]:
        differences.append(f"{copies} are the same as a forgotten one, the record has {data['copies']}")
    return checked(REMAINING, differences, f"all {len(retain)}, {copies} of them the same as a forgotten one")


def _heldout(
    data: Mapping[str, Any],
    forget: Sequence[str] | None,
    retain: Sequence[str] | None,
    heldout: Sequence[str] | None,
) -> Check:
    stated = data["heldout"]
    if stated is None or heldout is None:
        return _not_checked(data, None, HELDOUT)[0]
    differences = _unlike(stated, heldout)
    about = ""
    if stated["copies"] is not None and forget is not None and retain is not None:
        trained = {*forget, *retain}
        copies = sum(each in trained for each in heldout)
        about = f", {copies} of them the same as one of the training data"
        if copies != stated["copies"]:
            differences.append(f"{copies} are the same as one of the training data, the record has {stated['copies']}")
    elif stated["copies"] is not None:
        about = "; not whether they are among the training data: give --data and --forget"
    return checked(HELDOUT, differences, f"all {len(heldout)}{about}")


def _unlike(stated: Mapping[str, Any], hashes: Sequence[str]) -> list[str]:
    if len(hashes) != stated["count"]:
        return [f"the record has {stated['count']} samples, {len(hashes)} are given"]
    own = set_hash(hashes)
    return (
        []
        if own == stated["set"]
        else [f"they are not the record's: {short(own)}, the record has {short(stated['set'])}"]
    )
