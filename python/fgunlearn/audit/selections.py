"""The check of a record's selection: against the selection itself, or drawn again from its seed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fgunlearn.audit.checkpoints import NOT_SHOWN
from fgunlearn.audit.document import AuditRecord, inside
from fgunlearn.audit.evidence import Check, Evidence, checked, short
from fgunlearn.audit.fingerprints import changed_outside
from fgunlearn.audit.making import selected
from fgunlearn.canonical_json import plain

if TYPE_CHECKING:
    from fgunlearn.selection import Selection

CHOSEN, ELSEWHERE = "selected coordinates", "nothing else changed"
_LARGEST_DRAW = 10**8  # a record may say anything; more is not drawn on its word


def selection_checks(record: AuditRecord, shown: Evidence, given: Evidence) -> list[Check]:
    """The coordinates and what is said of them; and with both checkpoints, whether any other changed."""
    stated = record.selection
    if stated is None:
        return [Check(claim, "not checked", "the record has no selection") for claim in (CHOSEN, ELSEWHERE)]
    selection, how = given.selection, "the selection given"
    if selection is None:
        selection, how = _drawn_again(stated), "drawn again from the seed"
    if selection is None:
        why = "give --selection: only a uniform draw can be made again from the record"
        return [Check(claim, "not checked", why) for claim in (CHOSEN, ELSEWHERE)]
    found = plain(selected(selection, None))
    differences = [
        f"{name}: {short(found.get(name))}, the record has {short(stated.get(name))}"
        for name in sorted((found.keys() | stated.keys()) - {"strategy"})
        if found.get(name) != stated.get(name) or name not in stated or name not in found
    ]
    same = checked(CHOSEN, differences, f"{how}; how they were chosen is the record's word")
    return [same, _elsewhere(record, selection, same.state == "verified", shown, given)]


def _elsewhere(record: AuditRecord, selection: Selection, own: bool, shown: Evidence, given: Evidence) -> Check:
    if given.base is None or given.result is None:
        return Check(ELSEWHERE, "not checked", "give --base and --result")
    if shown.base is None or shown.result is None:
        return Check(ELSEWHERE, "not checked", NOT_SHOWN)
    if not own:
        return Check(ELSEWHERE, "not checked", "the coordinates are not the record's")
    if inside(record.repair, "options", "update") == "all":
        return Check(ELSEWHERE, "not checked", "the record says that the repair updates all parameters")
    outside, others = changed_outside(shown.base, shown.result, selection)
    assert selection.names is not None
    differences = [
        f"tensor {name!r} of shape {list(shape)} is selected from, and the checkpoints have none like it"
        for name, shape in zip(selection.names, selection.shapes, strict=True)
        if inside(record.base, name, "shape") not in (None, list(shape)) or name not in record.base
    ]
    differences += [f"tensor {name!r} has {count} changes outside" for name, count in outside.items() if count]
    buffers = inside(record.changed, "buffers") or ()
    differences += [f"tensor {name!r} changed, and nothing of it is selected" for name in others if name not in buffers]
    # Whether such a tensor is a buffer, no checkpoint says.
    named = f"{', '.join(others[:3])}{' and others' if len(others) > 3 else ''}"
    said = f" but in {named}, which the record calls buffers" if others else ""
    return checked(ELSEWHERE, differences, f"no value off the selection{said}")


def _drawn_again(stated: dict[str, Any]) -> Selection | None:
    """The selection of a uniform draw, which is a function of seed and shapes; None for any other."""
    strategy: Any = stated.get("strategy")
    if inside(strategy, "kind") != "RandomK" or inside(strategy, "scope") not in ("global", "tensor"):
        return None
    import torch

    from fgunlearn.selection import RandomK

    try:
        draw = RandomK(strategy["ratio"], k=strategy["k"], seed=int(strategy["seed"]), scope=strategy["scope"])
        shapes = {each["name"]: [int(size) for size in each["shape"]] for each in stated["tensors"]}
        if sum(math.prod(shape) for shape in shapes.values()) > _LARGEST_DRAW:
            return None
        # Only shapes are looked at: one element each, seen as many.
        return draw.choose({name: torch.empty(1).expand(shape) for name, shape in shapes.items()}, None)
    except (KeyError, TypeError, ValueError, RuntimeError):
        return None  # what the record says of itself is nothing that can be drawn
