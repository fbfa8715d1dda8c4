"""What a record claims, held against what is at hand: verified, differs, or not checked and why."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fgunlearn.audit.document import AuditRecord, inside
from fgunlearn.audit.fingerprints import changed_between, fingerprint
from fgunlearn.audit.samples import SALTED, data_of, hashes_of, set_hash
from fgunlearn.audit.signing import wrong_signature

if TYPE_CHECKING:
    from torch import nn

    from fgunlearn.batches import Loader
    from fgunlearn.selection import Selection

State = Literal["verified", "differs", "not checked"]

_NAMED = 3  # differences that a check names; of more it tells the number


@dataclass(frozen=True)
class Check:
    """One claim of a record, and what came of it.

    Attributes:
        claim: what the record says, in a few words.
        state: "verified", "differs" or "not checked".
        detail: what differs, why it was not checked, or what it was held against.
    """

    claim: str
    state: State
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a record is held against; each part may be missing.

    Attributes:
        base: checkpoint before, a safetensors file or a sharded one's index.
        result: checkpoint after.
        patch: what a forget patch says: "base" and "result", hashes by tensor, as :func:`fgunlearn.audit.of_patch`
            takes them; "sha256" of its file.
        forget: the forgotten samples, batches as for :func:`fgunlearn.audit.data_of`, in the order of their rows.
        rows: their names in messages, such as row numbers, one per sample.
        retain: the remaining samples.
        heldout: those the figures were measured on.
        salt: of the hashes.
        selection: the selected coordinates.
        base_model: the model with base's weights, for the figures.
        result_model: with those of the result.
        retrained: the reference of relearning.
        gan: the SPD-GAN of the unlearning degree.
        gan_sha256: of its file.
        key: public key, a PEM file.
    """

    base: Path | None = None
    result: Path | None = None
    patch: Mapping[str, Any] | None = None
    forget: Loader | None = None
    rows: Sequence[object] | None = None
    retain: Loader | None = None
    heldout: Loader | None = None
    salt: bytes | None = None
    selection: Selection | None = None
    base_model: nn.Module | None = None
    result_model: nn.Module | None = None
    retrained: nn.Module | None = None
    gan: Any = None
    gan_sha256: str | None = None
    key: Path | None = None


def verify(record: AuditRecord, evidence: Evidence | None = None) -> list[Check]:
    """Recomputes everything of the record that the evidence allows.

    Hashes, counts and selections must agree exactly. Figures are measured again, and may differ as other machines make
    them: shares by 0.001 and one sample, losses by a thousandth, steps by one look.

    Raises:
        ImportError: a key is given and the package cryptography is missing.
        TypeError, ValueError: evidence that can't be read or measured.
        OSError: a file that can't be read.
    """
    from fgunlearn.audit.figures import figure_checks
    from fgunlearn.audit.selections import selection_check

    given = Evidence() if evidence is None else evidence
    return [
        _document(record),
        _signature(record, given),
        _checkpoint("base checkpoint", record.base, given.base, "--base"),
        _checkpoint("result checkpoint", record.result, given.result, "--result"),
        _changed(record, given),
        _patch(record, given),
        *_data(record, given),
        selection_check(record, given),
        *figure_checks(record, given),
        Check(
            "date, machine, versions, seeds, options, times",
            "not checked",
            "nothing at hand can show these: they are the word of whoever wrote the record",
        ),
    ]


def listed(differences: Iterable[str]) -> str:
    """The first differences, and how many more there are."""
    found = list(differences)
    rest = len(found) - _NAMED
    return "; ".join(found[:_NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def checked(claim: str, differences: Sequence[str], detail: str = "") -> Check:
    """Verified where nothing differs."""
    return Check(claim, "differs", listed(differences)) if differences else Check(claim, "verified", detail)


def _document(record: AuditRecord) -> Check:
    wrong = [] if record.intact else [f"the content's hash is {record.digest}, the record states {record.sha256}"]
    return checked(
        "the record's own hash", wrong, "as it was when the hash was taken, or hashed anew by who altered it"
    )


def _signature(record: AuditRecord, given: Evidence) -> Check:
    claim = "signature"
    if given.key is None:
        why = "the record has none" if record.signature is None else "give --key, the public key that you trust"
        return Check(claim, "not checked", why)
    wrong = wrong_signature(record, given.key, "--key")
    return checked(claim, [] if wrong is None else [wrong], f"by the holder of the key of {given.key}")


def _checkpoint(claim: str, stated: Mapping[str, Any], path: Path | None, option: str) -> Check:
    if path is None:
        return Check(claim, "not checked", f"give {option}")
    found = fingerprint(path)
    differences = []
    for name in sorted(stated.keys() | found.keys()):
        if name not in found:
            differences.append(f"tensor {name!r} of the record is not in {path}")
        elif name not in stated:
            differences.append(f"tensor {name!r} of {path} is not in the record")
        else:
            for about in ("dtype", "shape", "sha256"):
                was, now = stated[name].get(about), found[name][about]
                if was is not None and was != now:
                    differences.append(f"tensor {name!r}: {about} is {_short(now)}, the record has {_short(was)}")
                    break
    return checked(claim, differences, f"{len(found)} tensors of {path}")


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}..." if isinstance(value, str) and len(text) == 64 else text


def _changed(record: AuditRecord, given: Evidence) -> Check:
    claim = "how many values changed"
    if record.changed is None:
        return Check(claim, "not checked", "the record does not say")
    if given.base is None or given.result is None:
        return Check(claim, "not checked", "give --base and --result")
    found = {name: count for name, count in changed_between(given.base, given.result).items() if count}
    values, buffers = inside(record.changed, "values"), inside(record.changed, "buffers")
    if not isinstance(values, dict) or not isinstance(buffers, list):
        return Check(claim, "differs", "what the record says is no count by tensor")
    differences = [
        f"tensor {name!r}: {found.get(name, 0)} values differ, the record has {values.get(name, 0)}"
        for name in sorted({*found, *values, *filter(lambda each: isinstance(each, str), buffers)})
        if (found.get(name, 0) != values[name] if name in values else (name in found) != (name in buffers))
    ]
    return checked(claim, differences, f"{sum(found.values())} in {len(found)} tensors")


def _patch(record: AuditRecord, given: Evidence) -> Check:
    claim = "a forget patch makes this change"
    if given.patch is None:
        return Check(claim, "not checked", "give --patch")
    patch, differences = given.patch, []
    for part in ("base", "result"):
        hashes = {name: each if isinstance(each, str) else each["sha256"] for name, each in patch[part].items()}
        stated = {name: entry["sha256"] for name, entry in getattr(record, part).items()}
        for name, digest in sorted(hashes.items()):
            if name not in stated:
                differences.append(f"tensor {name!r} of the patch is not in the record's {part}")
            elif stated[name] != digest:
                differences.append(
                    f"tensor {name!r} of the {part} is {_short(digest)} in the patch, the record has another"
                )
    touched = {
        name
        for name in record.base.keys() & record.result.keys()
        if record.base[name]["sha256"] != record.result[name]["sha256"]
    }
    differences += [f"tensor {name!r} changes, and not by the patch" for name in sorted(touched - patch["base"].keys())]
    own = inside(record.patch, "sha256")
    if own is not None and patch.get("sha256") not in (None, own):
        differences.append(f"the record is of another patch file, {_short(own)}")
    return checked(claim, differences, f"{len(patch['base'])} tensors by hash")


def _data(record: AuditRecord, given: Evidence) -> list[Check]:
    if record.data is None:
        return [Check("forgotten samples", "not checked", "the record names none")]
    checks = [_listed_samples(record.data["forgotten"])]
    salted = record.data["hash"] == SALTED
    if salted and given.salt is None and (given.forget is not None or given.heldout is not None):
        why = "the hashes are salted: give --salt"
    elif given.salt is not None and not salted:
        return [*checks, Check("forgotten samples", "differs", "a salt is given, but the record's hashes are plain")]
    elif given.salt is not None and record.data["salt_sha256"] != hashlib.sha256(given.salt).hexdigest():
        return [*checks, Check("forgotten samples", "differs", "the salt is not the one that the record was made with")]
    else:
        why = ""
    forget, rest = "give --data and --forget", "give --data and --forget"
    if why or given.forget is None:
        return [
            *checks,
            Check("forgotten samples", "not checked", why or forget),
            Check("remaining samples", "not checked", why or rest),
            _heldout(record.data, given, why),
        ]
    hashes = hashes_of(given.forget, given.salt, "--data")
    checks.append(_forgotten(record.data["forgotten"], hashes, given.rows))
    found = data_of(given.forget, given.retain, None, salt=given.salt)
    differences = [
        f"{what}: {_say(found[part])}, the record has {_say(record.data.get(part))}"
        for part, what in (("retained", "the set"), ("copies", "copies of forgotten samples among them"))
        if found[part] != record.data.get(part)
    ]
    copies = found["copies"]
    if record.data.get("retained") is None:
        checks.append(Check("remaining samples", "not checked", "the record does not name them"))
    elif given.retain is None:
        checks.append(Check("remaining samples", "not checked", rest))
    else:
        checks.append(checked("remaining samples", differences, f"{copies} of them the same as a forgotten one"))
    checks.append(_heldout(record.data, given, ""))
    return checks


def _listed_samples(forgotten: Mapping[str, Any]) -> Check:
    samples, differences = forgotten["samples"], []
    if forgotten["count"] != len(samples):
        differences.append(f"the record says {forgotten['count']} samples and lists {len(samples)}")
    if forgotten["set"] != set_hash(samples):
        differences.append("the hash of the set is not that of the samples listed")
    return checked("the list of forgotten samples", differences, f"{len(samples)} hashes and that of their set")


def _forgotten(stated: Mapping[str, Any], hashes: Sequence[str], rows: Sequence[object] | None) -> Check:
    known, found = set(stated["samples"]), set(hashes)
    names = range(len(hashes)) if rows is None else rows
    differences = [
        f"row {name} is not among the record's samples"
        for name, each in zip(names, hashes, strict=True)
        if each not in known
    ]
    missing = sum(each not in found for each in stated["samples"])
    if missing:
        differences.append(f"{missing} of the record's samples are not among those given")
    if len(hashes) != stated["count"]:
        differences.insert(0, f"the record claims {stated['count']} samples, {len(hashes)} are given")
    return checked("forgotten samples", differences, f"all {len(hashes)}")


def _heldout(data: Mapping[str, Any], given: Evidence, why: str) -> Check:
    claim = "held-out samples"
    stated = data.get("heldout")
    if stated is None:
        return Check(claim, "not checked", "the record names none")
    if why or given.heldout is None:
        return Check(claim, "not checked", why or "give --heldout")
    hashes = hashes_of(given.heldout, given.salt, "--heldout")
    differences = []
    if len(hashes) != stated["count"]:
        differences.append(f"the record has {stated['count']} samples, {len(hashes)} are given")
    elif set_hash(hashes) != stated["set"]:
        differences.append("they are not the record's")
    return checked(claim, differences, f"all {len(hashes)}")


def _say(value: object) -> str:
    return f"{value['count']} samples, {_short(value['set'])}" if isinstance(value, dict) else str(value)
