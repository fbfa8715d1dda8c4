"""The check of a record's selection: against the selection itself, or drawn again from its seed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fgunlearn.audit.document import AuditRecord, inside
from fgunlearn.audit.fingerprints import changed_outside
from fgunlearn.audit.making import indices_hash
from fgunlearn.audit.verifying import Check, Evidence, checked

if TYPE_CHECKING:
    from fgunlearn.selection import Selection

_CLAIM = "selected coordinates"
_LARGEST_DRAW = 10**8  # a record may say anything; more is not drawn on its word


def selection_check(record: AuditRecord, given: Evidence) -> Check:
    """The selection's hash, and with the checkpoints that nothing else changed."""
    stated = record.selection
    if stated is None:
        return Check(_CLAIM, "not checked", "the record has no selection")
    selection, how = given.selection, "the selection given"
    if selection is None:
        selection, how = _drawn_again(stated), "drawn again from the seed"
    if selection is None:
        return Check(_CLAIM, "not checked", "give --selection: only a uniform draw can be made again from the record")
    differences = []
    sizes = (selection.k, selection.numel)
    if sizes != (stated.get("k"), stated.get("numel")):
        differences.append(f"{sizes[0]} of {sizes[1]}, the record has {stated.get('k')} of {stated.get('numel')}")
    elif indices_hash(selection) != stated.get("sha256"):
        differences.append("the coordinates are not the record's")
    everything = inside(record.repair, "options", "update") == "all"
    if given.base is None or given.result is None or everything:
        why = "the repair updates all" if everything else "give --base and --result"
        return checked(_CLAIM, differences, f"{how}; not whether others changed: {why}")
    outside = changed_outside(given.base, given.result, selection)
    differences += [f"tensor {name!r} has {count} changes outside" for name, count in outside.items() if count]
    return checked(_CLAIM, differences, f"{how}; no parameter changed elsewhere")


def _drawn_again(stated: dict[str, Any]) -> Selection | None:
    """The selection of a uniform draw, which is a function of seed and shapes; None for any other."""
    strategy = stated.get("strategy")
    if inside(strategy, "kind") != "RandomK" or inside(strategy, "scope") not in ("global", "tensor"):
        return None
    import torch

    from fgunlearn.selection import RandomK

    try:
        draw = RandomK(k=stated["k"], seed=int(inside(strategy, "seed")), scope=inside(strategy, "scope"))
        shapes = {each["name"]: [int(size) for size in each["shape"]] for each in stated["tensors"]}
        if sum(math.prod(shape) for shape in shapes.values()) > _LARGEST_DRAW:
            return None
        # Only shapes are looked at: one element each, seen as many.
        return draw.choose({name: torch.empty(1).expand(shape) for name, shape in shapes.items()}, None)
    except (KeyError, TypeError, ValueError, RuntimeError):
        return None  # what the record says of itself is nothing that can be drawn
