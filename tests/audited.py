"""An unlearning of a tiny model, its record, and everything that the record can be held against; and JSON's leaves."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import fgunlearn as fg
from fgunlearn import audit
from fgunlearn.canonical_json import indented
from fgunlearn.seeding import seeded

Batches = list[tuple[Tensor, Tensor]]
Place = tuple[str | int, ...]

SALT = bytes(range(32))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def samples(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(rows) % 3
    x = torch.randn(rows, 6, generator=generator)
    x[torch.arange(rows), y] += 2.0
    return x, y


@dataclasses.dataclass(frozen=True)
class Unlearned:
    record: audit.AuditRecord
    evidence: audit.Evidence
    source: nn.Module
    result: fg.Result
    forget: Batches
    retain: Batches
    heldout: Batches


def shifted(batch: Tensor) -> Tensor:
    """What stands for an SPD-GAN here."""
    return batch + 0.1


def unlearned_in(folder: Path) -> Unlearned:
    """Always the same but for date and times; its files are in the folder."""
    (x, y), (u, v) = samples(60, 1), samples(30, 2)
    forget, retain, heldout = [(x[:12], y[:12])], [(x[12:], y[12:])], [(u, v)]
    with seeded(0):
        source = network()
    optimizer = torch.optim.SGD(source.parameters(), 0.1)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(source(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    base, out = (folder / f"{name}.safetensors" for name in ("base", "result"))
    save_file(source.state_dict(), base)
    model = copy.deepcopy(source)
    strategy, perturb, repair = fg.TopK(0.3), fg.Shrink(0.5), fg.Repair(epochs=2, lr=0.05)
    result = fg.unlearn(model, forget, retain, strategy=strategy, perturb=perturb, repair=repair)
    save_file(model.state_dict(), out)
    learning = audit.RelearningOptions(tolerance=0.02, max_steps=12, check_every=1)
    record = audit.record(
        result,
        base=audit.fingerprint(base),
        data=audit.data_of(forget, retain, heldout, salt=SALT, steered=False),
        strategy=strategy,
        perturb=perturb,
        repair=repair,
        seeds={"data": 2**63 - 1},
        metrics={
            "base": audit.measured(source, forget, retain, heldout),
            "result": audit.measured(model, forget, retain, heldout),
            "unlearning_degree": audit.degree(source, model, shifted, forget, heldout),
        },
        relearning=audit.relearned(source, model, forget, source, learning),
    )
    evidence = audit.Evidence(
        base=base,
        result=out,
        forget=forget,
        rows=range(100, 112),
        retain=retain,
        heldout=heldout,
        salt=SALT,
        selection=result.selection,
        base_model=source,
        result_model=model,
        retrained=source,
        gan=shifted,
    )
    return Unlearned(record, evidence, source, result, forget, retain, heldout)


def places(value: Any, here: Place = ()) -> Iterator[Place]:
    """Where the values in nested lists and objects are, containers among them; but for the outermost."""
    if here:
        yield here
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from places(item, (*here, name))


def at(value: Any, place: Place) -> Any:
    for name in place:
        value = value[name]
    return value


def with_other(document: Any, place: Place, value: Any) -> Any:
    """A copy with another value at a place."""
    changed = copy.deepcopy(document)
    at(changed, place[:-1])[place[-1]] = value
    return changed


def checks(record: audit.AuditRecord, evidence: audit.Evidence | None = None) -> dict[str, audit.Check]:
    found = audit.verify(record, evidence)
    assert len({check.claim for check in found}) == len(found)
    return {check.claim: check for check in found}


def altered(unlearned: Unlearned, *place: str | int, value: Any) -> audit.AuditRecord:
    """The record as someone leaves it who alters it and takes the hash anew."""
    document = with_other(json.loads(unlearned.record.text()), place, value)
    return rehashed(document)


def rehashed(document: dict[str, Any]) -> audit.AuditRecord:
    record = audit.AuditRecord.from_text(indented({**document, "sha256": "0" * 64}))
    return dataclasses.replace(record, sha256=record.digest)


def changed(unlearned: Unlearned, **parts: Any) -> audit.Evidence:
    return dataclasses.replace(unlearned.evidence, **parts)


def only(unlearned: Unlearned, *names: str) -> audit.Evidence:
    return audit.Evidence(**{name: getattr(unlearned.evidence, name) for name in names})


def light(unlearned: Unlearned) -> audit.Evidence:
    """All evidence but what figures are measured with."""
    return changed(unlearned, base_model=None, result_model=None, retrained=None, gan=None)
