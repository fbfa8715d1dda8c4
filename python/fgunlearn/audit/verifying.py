"""What a record claims, held against what is at hand: verified, differs, or not checked and why."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgunlearn.audit.checkpoints import changed_check, checkpoint_check, patch_check
from fgunlearn.audit.document import AuditRecord, inside
from fgunlearn.audit.evidence import Check, Evidence, checked
from fgunlearn.audit.figures import figure_checks
from fgunlearn.audit.fingerprints import fingerprint, same_weights
from fgunlearn.audit.selections import selection_checks
from fgunlearn.audit.sets import FORGOTTEN, HELDOUT, REMAINING, sample_checks
from fgunlearn.audit.signing import wrong_signature
from fgunlearn.audit.statement import statement

if TYPE_CHECKING:
    from torch import nn

WORD = "method, options, seeds, versions, machine, date, times"
"""The claim that nothing can show."""


def verify(record: AuditRecord, evidence: Evidence | None = None) -> list[Check]:
    """Recomputes everything of the record that the evidence allows.

    Hashes, counts and selections must agree exactly. Figures are measured again, on checkpoints and samples that the
    record's hashes have shown to be its own, and may differ as other machines make them: shares by 0.001 and one sample
    of D_u, mean losses by 2%, differences of them by 0.001 and a thousandth, steps by one look.

    Raises:
        ImportError: a key is given and the package cryptography is missing.
        TypeError, ValueError: evidence that can't be read or measured.
        OSError: a file that can't be read.
    """
    given = Evidence() if evidence is None else evidence
    files = {part: checkpoint_check(part, getattr(record, part), getattr(given, part)) for part in ("base", "result")}
    samples = sample_checks(record, given)
    shown = _shown(record, given, {check.claim for check in (*files.values(), *samples) if check.state == "verified"})
    return [
        _document(record),
        _agreement(record),
        _signature(record, given),
        *files.values(),
        changed_check(record, shown, given),
        patch_check(record, given),
        *samples,
        *selection_checks(record, shown, given),
        *figure_checks(record, shown, given),
        Check(
            WORD,
            "not checked",
            "nothing at hand can show these, nor how the repair went, nor whether unlearning looked at the held-out "
            "samples: they are the word of whoever wrote the record",
        ),
    ]


def _shown(record: AuditRecord, given: Evidence, verified: set[str]) -> Evidence:
    """The evidence without what is not known to be what the record is about."""
    kept: dict[str, Any] = {}
    for part in ("base", "result"):
        path, model = getattr(given, part), getattr(given, f"{part}_model")
        kept[part] = path if f"{part} checkpoint" in verified else None
        kept[f"{part}_model"] = model if model is not None and _holds(model, record, part, path, kept[part]) else None
    for name, claim in (("forget", FORGOTTEN), ("retain", REMAINING), ("heldout", HELDOUT)):
        kept[name] = getattr(given, name) if claim in verified else None
    return dataclasses.replace(given, **kept)


def _holds(model: nn.Module, record: AuditRecord, part: str, path: Path | None, verified: Path | None) -> bool:
    """Whether a model is the record's: by its checkpoint, whose dtypes it need not have, or else by its own hashes."""
    if path is not None:
        return verified is not None and same_weights(model, verified)
    return fingerprint(model) == getattr(record, part)


def _document(record: AuditRecord) -> Check:
    wrong = [] if record.intact else [f"the content's hash is {record.digest}, the record states {record.sha256}"]
    return checked(
        "the record's own hash", wrong, "as it was when the hash was taken, or hashed anew by who altered it"
    )


def _agreement(record: AuditRecord) -> Check:
    """What the record says twice, and the statement, which is the same in all records of a version."""
    differences = []
    if record.statement != statement():
        differences.append("its statement of what it proves is not the one of this version of the format")
    changed = record.changed or {"values": {}, "buffers": []}
    counted = sorted({*changed["buffers"], *(name for name, count in changed["values"].items() if count)})
    differences += [
        f"tensor {name!r} changed by its counts, and not by its hashes"
        for name in counted
        if name not in record.base or record.base.get(name) == record.result.get(name)
    ]
    for name, part in (
        ("selection", inside(record.selection, "strategy")),
        ("perturbation", record.perturbation),
        ("repair", inside(record.repair, "options")),
    ):
        own = inside(part, "seed")
        if own is not None and own != record.seeds.get(name):
            differences.append(
                f"the seed of {name} is {own!r:.40} in its options and {record.seeds.get(name)!r:.40} in seeds"
            )
    return checked("the record agrees with itself", differences, "seeds, changes, and the statement of this version")


def _signature(record: AuditRecord, given: Evidence) -> Check:
    claim = "signature"
    if given.key is None:
        why = "the record has none" if record.signature is None else "give --key, the public key that you trust"
        return Check(claim, "not checked", why)
    wrong = wrong_signature(record, given.key, "--key")
    return checked(claim, [] if wrong is None else [wrong], f"by the holder of the key of {given.key}")
