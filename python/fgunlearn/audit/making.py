"""Records of what was done: of an unlearning that ran here, and of a change that a forget patch describes."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import fgunlearn
from fgunlearn.audit.document import AuditRecord
from fgunlearn.audit.form import METRICS
from fgunlearn.canonical_json import plain

if TYPE_CHECKING:
    from fgunlearn.audit.fingerprints import Fingerprint
    from fgunlearn.perturb import Perturbation
    from fgunlearn.selection import Selection, Strategy
    from fgunlearn.unlearning import Repair, Result


def record(
    result: Result,
    *,
    base: Fingerprint,
    result_fingerprint: Fingerprint | None = None,
    data: Mapping[str, Any] | None = None,
    strategy: Strategy | None = None,
    perturb: Perturbation | None = None,
    repair: Repair | None = None,
    method: str = "unlearn",
    options: Mapping[str, Any] | None = None,
    seeds: Mapping[str, int] | None = None,
    changed: Mapping[str, int] | None = None,
    metrics: Mapping[str, Any] | None = None,
    relearning: Mapping[str, Any] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> AuditRecord:
    """The record of an unlearning that ran in this process.

    Args:
        result: what :func:`fgunlearn.unlearn` or a method returned.
        base: fingerprint of the model before, taken before: :func:`fgunlearn.audit.fingerprint`.
        result_fingerprint: of the checkpoint that was written; of the result's model if None.
        data: what :func:`fgunlearn.audit.data_of` returned.
        strategy: as it was given.
        perturb: as it was given.
        repair: as it was given.
        method: what was called.
        options: further ones, plain data.
        seeds: further ones; those of strategy, perturbation and repair are taken from them.
        changed: per tensor the number of changed values in what was written; the result's own counts if None.
        metrics: "base" and "result", each of :func:`fgunlearn.audit.measured`, and "unlearning_degree".
        relearning: of :func:`fgunlearn.audit.relearned`.
        seconds: of further phases.

    Raises:
        TypeError, ValueError: a part that is no plain data; the field is named.
    """
    import torch

    from fgunlearn.audit.fingerprints import fingerprint

    parts: dict[str, Any] = {"selection": strategy, "perturbation": perturb, "repair": repair}
    own_seeds = {name: part.seed for name, part in parts.items() if hasattr(part, "seed")}
    counts = result.changed if changed is None else changed
    return AuditRecord(
        kind="unlearn",
        base=dict(base),
        result=dict(fingerprint(result.model) if result_fingerprint is None else result_fingerprint),
        data=None if data is None else dict(data),
        method={"name": method, "options": dict(options or {})},
        selection=None if result.selection is None else selected(result.selection, strategy),
        perturbation=None if perturb is None else as_data(perturb),
        repair=None if repair is None and not result.record.steps else _repaired(result, repair),
        changed={
            "values": {name: count for name, count in counts.items() if count},
            "buffers": list(result.buffers),
        },
        seeds={**own_seeds, **(seeds or {})},
        versions={**_versions(), "torch": torch.__version__},
        machine=_machine(result),
        metrics=None if metrics is None else {**dict.fromkeys(METRICS), **metrics},
        relearning=None if relearning is None else dict(relearning),
        seconds={**result.seconds, **(seconds or {})},
    )


def of_patch(
    base: Mapping[str, Any],
    result: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    *,
    data: Mapping[str, Any] | None = None,
    patch_sha256: str | None = None,
    changed: Mapping[str, int] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> AuditRecord:
    """The record of a change that a forget patch describes, from what the patch says alone; without torch.

    Args:
        base: per tensor the hexadecimal SHA-256 of its bytes before; or a mapping with "sha256" and, where they are
            known, "dtype" and "shape". Of all tensors: one that is missing is a difference to a checkpoint that has it.
        result: the same after it.
        metadata: what else the patch says of itself: plain data, kept as it is.
        data: what :func:`fgunlearn.audit.data_of` returned, where the samples are known.
        patch_sha256: of the patch file.
        changed: per tensor the number of values that the patch changes.
        seconds: wall-clock time per phase.

    Raises:
        TypeError, ValueError: a part that is no plain data, or no hash; the field is named.
    """
    return AuditRecord(
        kind="patch",
        base=_entries(base),
        result=_entries(result),
        data=None if data is None else dict(data),
        changed=None if changed is None else {"values": dict(changed), "buffers": []},
        patch={"sha256": patch_sha256, "metadata": dict(metadata or {})},
        versions=_versions(),
        machine=_host(),
        seconds=dict(seconds or {}),
    )


def as_data(options: Any) -> dict[str, Any]:
    """A dataclass of options as plain data, "kind" its name.

    Raises:
        TypeError: it is no dataclass.
    """
    if not dataclasses.is_dataclass(options) or isinstance(options, type):
        raise TypeError(f"options must be a dataclass, got {options!r}")
    return plain({"kind": type(options).__name__, **dataclasses.asdict(options)})


def selected(selection: Selection, strategy: Strategy | None) -> dict[str, Any]:
    """A selection as plain data: how it was made, its size, the hash of its indices, and what of each tensor is in it.

    The hash is SHA-256 of all selected global indices, ascending, each as a little-endian int64. A tensor's global
    indices are its own in C order plus the number of elements of the tensors before it.
    """
    selection = selection.full()
    names = selection.names or [str(t) for t in range(len(selection.shapes))]
    density = list(selection.density().values())
    return {
        "strategy": None if strategy is None else as_data(strategy),
        "k": selection.k,
        "numel": selection.numel,
        "ratio": selection.ratio,
        "threshold": selection.threshold,
        "seed": selection.seed,
        "sha256": indices_hash(selection),
        "tensors": [
            {"name": name, "shape": list(shape), "selected": count, "density": share}
            for name, shape, count, share in zip(names, selection.shapes, selection.counts, density, strict=True)
        ],
    }


def indices_hash(selection: Selection) -> str:
    """The hash that :func:`selected` describes, hexadecimal."""
    import torch

    digest, before = hashlib.sha256(), 0
    for index, shape in zip(selection.indices, selection.shapes, strict=True):
        digest.update((index.cpu().to(torch.int64) + before).numpy().astype("<i8").tobytes())
        before += torch.Size(shape).numel()
    return digest.hexdigest()


def _repaired(result: Result, repair: Repair | None) -> dict[str, Any]:
    record = result.record
    return {
        "options": None if repair is None else as_data(repair),
        "steps": record.steps,
        "forget_steps": record.forget_steps,
        "samples": record.samples,
        "stopped_forgetting": record.stopped_forgetting,
        "history": record.history,
    }


def _entries(hashes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {"sha256": each} if isinstance(each, str) else dict(each) for name, each in hashes.items()}


def _versions() -> dict[str, str]:
    return {"fgunlearn": fgunlearn.__version__, "python": platform.python_version()}


def _machine(result: Result) -> dict[str, Any]:
    from fgunlearn import machine
    from fgunlearn.batches import device_of

    return machine.describe(device_of(result.model))


def _host() -> dict[str, Any]:
    """What can be told without torch."""
    return {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
