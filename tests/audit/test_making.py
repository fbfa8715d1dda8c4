"""What a record says of an unlearning: everything as data."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import struct

import pytest
import torch

import fgunlearn as fg
from audited import SALT, Unlearned, network
from fgunlearn import audit, machine
from fgunlearn.audit.making import as_data, indices_hash
from fgunlearn.selection import Selection

HASH = "ab" * 32
OTHER = "cd" * 32


def test_options_are_data(unlearned: Unlearned) -> None:
    record = unlearned.record
    assert record.kind == "unlearn"
    assert record.method == {"name": "unlearn", "options": {}}
    assert record.perturbation == {"kind": "Shrink", "factor": 0.5}
    assert record.selection is not None
    assert record.selection["strategy"] == {
        "kind": "TopK",
        "ratio": 0.3,
        "k": None,
        "score": "grad",
        "scope": "global",
        "pool": "sum",
    }
    assert record.repair is not None
    assert record.repair["options"]["kind"] == "Repair"
    assert {"epochs": 2, "lr": 0.05, "schedule": "onecycle"}.items() <= record.repair["options"].items()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record.created)


def test_it_says_what_was_done_where_and_for_how_long(unlearned: Unlearned) -> None:
    record, result = unlearned.record, unlearned.result
    assert record.repair is not None
    assert record.repair["steps"] == result.record.steps == 2
    assert record.repair["history"] == result.record.history
    assert record.changed == {"values": {n: c for n, c in result.changed.items() if c}, "buffers": result.buffers}
    assert record.seconds == result.seconds
    assert record.machine == machine.describe()
    assert record.versions.keys() == {"fgunlearn", "torch", "python"}
    assert record.versions["torch"] == torch.__version__
    assert record.seeds == {"repair": 0, "data": str(2**63 - 1)}  # beyond 2**53 as text


def test_the_selection_is_named_by_the_hash_of_its_global_indices(unlearned: Unlearned) -> None:
    selection, stated = unlearned.result.selection, unlearned.record.selection
    assert selection is not None
    assert stated is not None
    offsets, before = [], 0
    for shape in selection.shapes:
        offsets.append(before)
        before += torch.Size(shape).numel()
    pairs = zip(selection.indices, offsets, strict=True)
    places = sorted(int(each) + offset for index, offset in pairs for each in index)
    assert stated["sha256"] == hashlib.sha256(b"".join(struct.pack("<q", each) for each in places)).hexdigest()
    assert (stated["k"], stated["numel"]) == (len(places), before) == (selection.k, selection.numel)
    assert [each["name"] for each in stated["tensors"]] == list(selection.names or ())
    assert {each["name"]: each["density"] for each in stated["tensors"]} == selection.density()
    assert sum(each["selected"] for each in stated["tensors"]) == selection.k
    moved = Selection([(4,), (3,)], [torch.tensor([0]), torch.tensor([1])])
    assert indices_hash(moved) != indices_hash(Selection([(3,), (4,)], [torch.tensor([0]), torch.tensor([1])]))


def test_figures_have_intervals(unlearned: Unlearned) -> None:
    metrics = unlearned.record.metrics
    assert metrics is not None
    for part, model in (("base", unlearned.source), ("result", unlearned.result.model)):
        for name, loader in (
            ("forget", unlearned.forget),
            ("retain", unlearned.retain),
            ("heldout", unlearned.heldout),
        ):
            figures = metrics[part][name]
            assert figures["accuracy"]["value"] == pytest.approx(fg.metrics.accuracy(model, loader))
            assert figures["accuracy"]["low"] < figures["accuracy"]["value"] <= figures["accuracy"]["high"]
            assert figures["samples"] == len(loader[0][1])
        attack = fg.metrics.mia(model, unlearned.forget, unlearned.heldout, attacks=["loss"])["loss"]
        auc = metrics[part]["membership"]["auc"]
        assert (auc["value"], auc["low"], auc["high"]) == (attack.auc.value, attack.auc.low, attack.auc.high)
    assert metrics["unlearning_degree"]["net"].keys() == {"value", "low", "high"}
    alone = audit.measured(unlearned.source, unlearned.forget)
    assert alone["retain"] is alone["heldout"] is alone["membership"] is None


def test_relearning_is_told_with_and_without_rounding_and_against_the_reference(unlearned: Unlearned) -> None:
    found = unlearned.record.relearning
    assert found is not None
    assert found["options"]["bits"] == 8
    for part in ("as_is", "rounded"):
        assert found[part]["accuracy"].keys() == {"source", "unlearned", "retrained"}
        assert found[part]["unlearned"].keys() == {"steps", "reached"}
    # The source is the reference here: it is at its own loss at once, so there is no ratio.
    assert found["as_is"]["retrained"] == {"steps": 0, "reached": True}
    assert found["as_is"]["ratio"] is None
    assert found["as_is"]["unlearned"]["steps"] > 0
    forget = [(x[i : i + 1], y[i : i + 1]) for x, y in unlearned.forget for i in range(len(y))]
    again = audit.relearned(
        unlearned.source, unlearned.result.model, forget, unlearned.source, audit.RelearningOptions(**_options(found))
    )
    assert again == found  # whatever the loader's batches are


def _options(found: dict[str, object]) -> dict[str, object]:
    options = found["options"]
    assert isinstance(options, dict)
    return {name: value for name, value in options.items() if name != "optimizer"}


def test_a_baselines_result_has_a_record_too(unlearned: Unlearned) -> None:
    model = copy.deepcopy(unlearned.source)
    before = audit.fingerprint(model)
    result = fg.methods.finetune(model, unlearned.forget, unlearned.retain, epochs=1)
    record = audit.record(result, base=before, method="finetune", options={"epochs": 1})
    assert record.method == {"name": "finetune", "options": {"epochs": 1}}
    assert record.selection is record.perturbation is record.data is record.metrics is None
    assert record.repair is not None
    assert record.repair["options"] is None
    assert record.repair["steps"] == 1
    assert record.result == audit.fingerprint(model) != record.base
    assert audit.AuditRecord.from_text(record.text()).intact


def test_a_patch_has_a_record_of_what_it_says_alone() -> None:
    base, result = {"a": HASH, "b": HASH}, {"a": OTHER, "b": {"sha256": HASH, "dtype": "F32", "shape": [2]}}
    record = audit.of_patch(base, result, {"strategy": "topk"}, patch_sha256=HASH, changed={"a": 3}, seconds={"x": 0.5})
    assert record.kind == "patch"
    assert record.base == {"a": {"sha256": HASH}, "b": {"sha256": HASH}}
    assert record.result["b"] == {"sha256": HASH, "dtype": "F32", "shape": [2]}
    assert record.patch == {"sha256": HASH, "metadata": {"strategy": "topk"}}
    assert record.changed == {"values": {"a": 3}, "buffers": []}
    assert record.data is record.metrics is None
    assert audit.AuditRecord.from_text(record.text()) == record
    with_data = audit.of_patch(base, result, data=audit.data_of([(torch.ones(1, 2), torch.ones(1))], salt=SALT))
    assert with_data.data is not None
    assert with_data.data["forgotten"]["count"] == 1


def test_bad_parts_are_named() -> None:
    with pytest.raises(ValueError, match="base: 'a' must have a sha256 of 64 hexadecimal digits, got"):
        audit.of_patch({"a": "no hash"}, {})
    with pytest.raises(TypeError, match="JSON has no word for Linear"):
        audit.of_patch({"a": HASH}, {"a": HASH}, {"model": torch.nn.Linear(1, 1)})
    with pytest.raises(TypeError, match="options must be a dataclass, got 5"):
        as_data(5)


def test_a_document_is_json_for_any_reader(unlearned: Unlearned) -> None:
    document = json.loads(unlearned.record.text())
    assert document["format"] == "fgunlearn-audit"
    assert document["version"] == 1
    assert document["base"].keys() == network().state_dict().keys()
