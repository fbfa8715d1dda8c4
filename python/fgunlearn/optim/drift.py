"""Proof that nothing off a selection moved."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fgunlearn import ops
from fgunlearn.distributed.layout import local_part, reshard
from fgunlearn.distributed.sharded import part_of
from fgunlearn.parameters import first_difference, trainable
from fgunlearn.selection.selection import Selection


@contextlib.contextmanager
def no_drift(model: nn.Module, selection: Selection) -> Iterator[dict[str, str]]:
    """Proves by hash that, while the context is open, no bit of a parameter off the selection changed.

    On entry and on exit each parameter is hashed (SHA-256 of shape, dtype and bytes, the selected coordinates zeroed
    out); parameters that the selection doesn't know, such as frozen ones, are hashed whole. Buffers, such as batch-norm
    statistics, are not looked at. Takes a copy of one tensor at a time. Of DTensors, this process's parts are hashed.

    Args:
        model: the model the selection was made for.
        selection: the coordinates that may change.

    Yields:
        Name to hex digest, as on entry: two runs agree off the selection if their digests do.

    Raises:
        ValueError: the selection was made for another model.
        RuntimeError: on exit, a parameter moved off the selection, appeared or vanished; it is named. After an
            exception inside, nothing is checked and the exception goes on.
    """
    chosen = _by_name(model, selection)
    before = _digests(model, chosen)
    yield dict(before)
    after = _digests(model, chosen)
    for name in {**before, **after}:
        if name not in after or name not in before:
            raise RuntimeError(f"parameter {name!r} {'vanished' if name not in after else 'appeared'}")
        if before[name] != after[name]:
            raise RuntimeError(
                f"parameter {name!r} changed off the selection: SHA-256 {after[name][:16]}..., was {before[name][:16]}"
            )


def _by_name(model: nn.Module, selection: Selection) -> dict[str, Tensor]:
    if not isinstance(selection, Selection):
        raise TypeError(f"selection must be a Selection, got {type(selection).__name__}")
    reshard(model)
    named: dict[str, Tensor] = dict(model.named_parameters())
    if selection.names is not None:  # some may be frozen by now
        known = {name: named[name] for name in selection.names if name in named}
    else:
        known = dict(trainable(model)) if len(named) != len(selection.shapes) else named
    difference = first_difference(selection.names, selection.shapes, known)
    if difference is not None:
        raise ValueError(f"the selection was made for another model: {difference}")
    return {
        name: part_of(selection, position, p, f"parameter {name!r}") for position, (name, p) in enumerate(known.items())
    }


@torch.no_grad()
def _digests(model: nn.Module, chosen: dict[str, Tensor]) -> dict[str, str]:
    reshard(model)
    digests = {}
    for name, p in model.named_parameters():
        part = local_part(p)
        rest = part.contiguous()
        index = chosen.get(name)
        if index is not None and index.numel() and part.numel():
            rest = rest.clone() if rest.data_ptr() == part.data_ptr() else rest
            ops.sparse_scatter_([rest], [index.to(p.device)], [torch.zeros(len(index), dtype=p.dtype, device=p.device)])
        digest = hashlib.sha256(f"{tuple(p.shape)} {p.dtype}".encode())
        digest.update(rest.reshape(-1).view(torch.uint8).cpu().numpy().data)
        digests[name] = digest.hexdigest()
    return digests
