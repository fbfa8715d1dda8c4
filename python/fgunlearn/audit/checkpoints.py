"""The checks of a record's checkpoints: their hashes, what changed between them, and a forget patch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgunlearn.audit.document import AuditRecord, inside
from fgunlearn.audit.evidence import Check, Evidence, checked, short
from fgunlearn.audit.fingerprints import changed_between, fingerprint
from fgunlearn.canonical_json import plain

NOT_SHOWN = "the checkpoints given are not shown to be the record's"


def checkpoint_check(part: str, stated: Mapping[str, Any], path: Path | None) -> Check:
    """Whether a checkpoint has the record's tensors and no others, by dtype, shape and hash."""
    claim = f"{part} checkpoint"
    if path is None:
        return Check(claim, "not checked", f"give --{part}")
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
                    differences.append(f"tensor {name!r}: {about} is {short(now)}, the record has {short(was)}")
                    break
    return checked(claim, differences, f"{len(found)} tensors of {path}")


def changed_check(record: AuditRecord, shown: Evidence, given: Evidence) -> Check:
    """Whether as many values changed as the record says."""
    claim = "how many values changed"
    if record.changed is None:
        return Check(claim, "not checked", "the record does not say")
    if given.base is None or given.result is None:
        return Check(claim, "not checked", "give --base and --result")
    if shown.base is None or shown.result is None:
        return Check(claim, "not checked", NOT_SHOWN)
    found = {name: counts for name, counts in changed_between(shown.base, shown.result).items() if counts[1]}
    values, buffers = record.changed["values"], record.changed["buffers"]
    differences = []
    for name in sorted({*found, *values, *buffers}):
        least, most = found.get(name, (0, 0))
        if name in values:
            # Counted by value or by bit: 0 and -0 are one or the other.
            if not least <= values[name] <= most:
                differences.append(f"tensor {name!r}: {most} values differ, the record has {values[name]}")
        elif name not in buffers:
            if least:
                differences.append(f"tensor {name!r}: {most} values differ, the record has 0")
        elif not most:
            differences.append(f"buffer {name!r} is the same in both, the record says that it changed")
    total = sum(most for _, most in found.values())
    return checked(claim, differences, f"{total} in {len(found)} tensors")


def patch_check(record: AuditRecord, given: Evidence) -> Check:
    """Whether a forget patch names the record's checkpoints; applying it shows that it makes one of the other."""
    claim = "a forget patch is for these checkpoints"
    if given.patch is None:
        return Check(claim, "not checked", "give --patch")
    patch, differences = given.patch, []
    for part in ("base", "result"):
        stated = getattr(record, part)
        for name, held in sorted(patch[part].items()):
            entry = {"sha256": held} if isinstance(held, str) else held
            if name not in stated:
                differences.append(f"tensor {name!r} of the patch is not in the record's {part}")
                continue
            for about in ("dtype", "shape", "sha256"):
                was, now = stated[name].get(about), entry.get(about)
                if None not in (was, now) and was != now:
                    differences.append(
                        f"tensor {name!r} of the {part}: {about} is {short(now)} in the patch, the record has "
                        f"{short(was)}"
                    )
                    break
        differences += [
            f"tensor {name!r} of the record's {part} is not in the patch"
            for name in sorted(stated.keys() - patch[part])
        ]
    own = inside(record.patch, "sha256")
    if own is not None and patch.get("sha256") != own:
        differences.append(f"the record is of another patch file, {short(own)}")
    if record.patch is not None and plain(patch.get("metadata")) != record.patch["metadata"]:
        differences.append("the record has other metadata of the patch")
    counts = patch.get("changed")
    if record.kind == "patch" and record.changed is not None and counts != record.changed["values"]:
        differences.append("the record counts other changes than the patch")
    return checked(claim, differences, f"{len(patch['base'])} tensors by hash; applying it would show that it is sound")
