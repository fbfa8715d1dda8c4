"""Claims held against evidence: what fits is verified, what doesn't differs by name, and the rest is said."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import fgunlearn as fg
from audited import SALT, Unlearned, at, places, with_other
from fgunlearn import audit
from fgunlearn.audit.canonical import indented
from fgunlearn.selection import Selection

WORD = "date, machine, versions, seeds, options, times"


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


def test_everything_is_verified_that_can_be(unlearned: Unlearned) -> None:
    found = checks(unlearned.record, unlearned.evidence)
    assert {claim for claim, check in found.items() if check.state != "verified"} == {
        "signature",
        "a forget patch makes this change",
        WORD,
    }


def test_without_evidence_only_the_record_itself_is_looked_at_and_the_rest_says_what_it_needs(
    unlearned: Unlearned,
) -> None:
    found = checks(unlearned.record)
    verified = {claim for claim, check in found.items() if check.state == "verified"}
    assert verified == {"the record's own hash", "the list of forgotten samples"}
    assert not [check for check in found.values() if check.state == "differs"]
    for claim, check in found.items():
        assert check.detail, claim
    assert found["base checkpoint"].detail == "give --base"
    assert found["relearning"].detail == "give --base, --result, --arch, --data and --forget"


def test_an_altered_record_is_told_by_its_hash(unlearned: Unlearned) -> None:
    document = with_other(json.loads(unlearned.record.text()), ("seconds", "repair"), 0.001)
    found = checks(audit.AuditRecord.from_text(indented(document)))["the record's own hash"]
    assert found.state == "differs"
    assert unlearned.record.sha256 in found.detail


@pytest.mark.parametrize("part", ["base", "result"])
def test_a_wrong_checkpoint_is_told_by_its_first_tensors(unlearned: Unlearned, part: str, tmp_path: Path) -> None:
    path = getattr(unlearned.evidence, part)
    tensors = load_file(path)
    claim = f"{part} checkpoint"

    def found(wrong: dict[str, torch.Tensor]) -> audit.Check:
        save_file(wrong, tmp_path / "wrong.safetensors")
        return checks(unlearned.record, audit.Evidence(**{part: tmp_path / "wrong.safetensors"}))[claim]

    one = {**tensors, "3.weight": tensors["3.weight"].clone().index_fill_(1, torch.tensor(0), 5.0)}
    assert found(one).state == "differs"
    assert found(one).detail.startswith("tensor '3.weight': sha256 is ")
    assert found({**tensors, "3.weight": tensors["3.weight"].T.contiguous()}).detail.startswith(
        "tensor '3.weight': shape is [16, 3], the record has [3, 16]"
    )
    assert "dtype is F64, the record has F32" in found({**tensors, "0.bias": tensors["0.bias"].double()}).detail
    assert (
        "tensor '0.bias' of the record is not in" in found({n: t for n, t in tensors.items() if n != "0.bias"}).detail
    )
    assert "tensor 'extra' of" in found({**tensors, "extra": torch.ones(1)}).detail
    every = found({name: tensor + 1 for name, tensor in tensors.items()})
    assert every.detail.endswith("and 6 more")


def test_base_and_result_are_not_taken_for_each_other(unlearned: Unlearned) -> None:
    given = unlearned.evidence
    found = checks(unlearned.record, audit.Evidence(base=given.result, result=given.base))
    assert found["base checkpoint"].state == found["result checkpoint"].state == "differs"


def test_a_wrong_sample_is_told_by_its_row(unlearned: Unlearned) -> None:
    x, y = unlearned.forget[0]
    wrong = x.clone()
    wrong[4, 0] += 1.0
    found = checks(unlearned.record, changed(unlearned, forget=[(wrong, y)]))["forgotten samples"]
    assert found.state == "differs"
    assert found.detail == (
        "row 104 is not among the record's samples; 1 of the record's samples are not among those given"
    )
    relabelled = y.clone()
    relabelled[0] += 1
    assert (
        "row 100 is not"
        in checks(unlearned.record, changed(unlearned, forget=[(x, relabelled)]))["forgotten samples"].detail
    )


def test_a_record_that_claims_more_samples_than_are_given_differs(unlearned: Unlearned) -> None:
    x, y = unlearned.forget[0]
    found = checks(unlearned.record, changed(unlearned, forget=[(x[:9], y[:9])], rows=range(9)))["forgotten samples"]
    assert found.state == "differs"
    assert found.detail.startswith("the record claims 12 samples, 9 are given; 3 of the record's samples are not")
    more = checks(altered(unlearned, "data", "forgotten", "count", value=13))["the list of forgotten samples"]
    assert (more.state, more.detail) == ("differs", "the record says 13 samples and lists 12")
    swapped = altered(unlearned, "data", "forgotten", "samples", 0, value="00" * 32)
    assert "hash of the set" in checks(swapped)["the list of forgotten samples"].detail
    assert "1 of the record's samples" in checks(swapped, unlearned.evidence)["forgotten samples"].detail


def test_other_data_beside_the_forgotten_are_told(unlearned: Unlearned) -> None:
    x, y = unlearned.retain[0]
    fewer = checks(unlearned.record, changed(unlearned, retain=[(x[1:], y[1:])]))["remaining samples"]
    assert fewer.state == "differs"
    assert fewer.detail.startswith("the set: 47 samples, ")
    u, v = unlearned.forget[0]
    copied = [(torch.cat([x[1:], u[:1]]), torch.cat([y[1:], v[:1]]))]
    found = checks(unlearned.record, changed(unlearned, retain=copied))["remaining samples"]
    assert "copies of forgotten samples among them: 1, the record has 0" in found.detail
    a, b = unlearned.heldout[0]
    assert checks(unlearned.record, changed(unlearned, heldout=[(a, b.flip(0))]))["held-out samples"].detail == (
        "they are not the record's"
    )


def test_salted_hashes_need_the_salt_and_the_right_one(unlearned: Unlearned) -> None:
    without = checks(unlearned.record, only(unlearned, "forget", "heldout"))
    for claim in ("forgotten samples", "remaining samples", "held-out samples"):
        assert (without[claim].state, without[claim].detail) == ("not checked", "the hashes are salted: give --salt")
    wrong = checks(unlearned.record, changed(unlearned, salt=bytes(32)))["forgotten samples"]
    assert (wrong.state, wrong.detail) == ("differs", "the salt is not the one that the record was made with")
    plain = dataclasses.replace(unlearned.record, data=audit.data_of(unlearned.forget, salt=None), sha256="")
    assert checks(plain, only(unlearned, "forget"))["forgotten samples"].state == "verified"
    assert checks(plain, only(unlearned, "forget", "salt"))["forgotten samples"].state == "differs"


def test_how_much_changed_is_counted_again(unlearned: Unlearned) -> None:
    claim, given = "how many values changed", only(unlearned, "base", "result")
    assert unlearned.record.changed is not None
    name, count = next(iter(unlearned.record.changed["values"].items()))
    found = checks(altered(unlearned, "changed", "values", name, value=count + 1), given)[claim]
    assert found.detail == f"tensor {name!r}: {count} values differ, the record has {count + 1}"
    assert checks(altered(unlearned, "changed", "buffers", value=[]), given)[claim].state == "differs"
    assert checks(altered(unlearned, "changed", "values", "3.bias", value=1), given)[claim].state == "differs"


def test_a_selection_is_held_against_its_hash_and_what_changed(unlearned: Unlearned, tmp_path: Path) -> None:
    claim, selection = "selected coordinates", unlearned.result.selection
    assert selection is not None
    assert checks(unlearned.record, only(unlearned, "base", "result"))[claim].state == "not checked"
    fewer = Selection(selection.shapes, [index[1:] for index in selection.indices], names=selection.names)
    found = checks(unlearned.record, changed(unlearned, selection=fewer))[claim]
    assert found.state == "differs"
    assert f"the record has {selection.k} of {selection.numel}" in found.detail
    assert "has 1 changes outside" in found.detail
    moved = [index.clone() for index in selection.indices]
    moved[0][-1] = next(i for i in range(95, 0, -1) if i not in moved[0])
    other = Selection(selection.shapes, [moved[0].sort().values, *moved[1:]], names=selection.names)
    assert (
        "the coordinates are not the record's"
        in checks(unlearned.record, changed(unlearned, selection=other))[claim].detail
    )


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_a_uniform_draw_is_made_again_from_the_record_alone(unlearned: Unlearned, scope: Any) -> None:
    model, strategy = copy.deepcopy(unlearned.source), fg.RandomK(0.2, seed=2**62 + 1, scope=scope)
    before = audit.fingerprint(model)
    result = fg.unlearn(model, unlearned.forget, unlearned.retain, strategy=strategy)
    record = audit.record(result, base=before, strategy=strategy)
    assert record.seeds["selection"] == str(2**62 + 1)
    found = checks(record)["selected coordinates"]
    assert found.state == "verified"
    assert "drawn again from the seed" in found.detail
    document = json.loads(record.text())
    other = rehashed(with_other(document, ("selection", "strategy", "seed"), 7))
    assert checks(other)["selected coordinates"].state == "differs"
    huge = rehashed(with_other(document, ("selection", "tensors", 0, "shape"), [10**12]))
    assert checks(huge)["selected coordinates"].state == "not checked"


def test_figures_are_measured_again(unlearned: Unlearned) -> None:
    claim = "accuracy and membership of the result"
    for place, value in (
        (("forget", "accuracy", "value"), 0.01),
        (("heldout", "loss"), 9.0),
        (("membership", "auc", "value"), 0.05),
        (("retain", "samples"), 49),
        (("membership", "attack"), "guess"),
    ):
        found = checks(altered(unlearned, "metrics", "result", *place, value=value), unlearned.evidence)[claim]
        assert found.state == "differs", place
        assert found.detail.startswith(" ".join(place)), found.detail
    # One sample more or less, as another machine may find, is no difference.
    assert unlearned.record.metrics is not None
    near = unlearned.record.metrics["result"]["retain"]["accuracy"]["value"] - 1 / 48
    same = altered(unlearned, "metrics", "result", "retain", "accuracy", "value", value=near)
    assert checks(same, unlearned.evidence)[claim].state == "verified"
    part = checks(unlearned.record, changed(unlearned, heldout=None))[claim]
    assert (part.state, part.detail) == ("verified", "measured again, but for held-out data: give --heldout")


def test_the_degree_and_relearning_are_measured_again(unlearned: Unlearned) -> None:
    place = ("metrics", "unlearning_degree", "net", "value")
    assert checks(altered(unlearned, *place, value=0.9), unlearned.evidence)["unlearning degree"].state == "differs"
    assert checks(unlearned.record, changed(unlearned, gan=None))["unlearning degree"].state == "not checked"
    for place, value in (
        (("as_is", "unlearned", "steps"), 0),
        (("rounded", "accuracy", "unlearned"), 0.0),
        (("as_is", "target"), 7.0),
        (("options", "lr"), "fast"),
        (("options", "momentum"), -1),
    ):
        found = checks(altered(unlearned, "relearning", *place, value=value), unlearned.evidence)["relearning"]
        assert found.state == "differs", place
    endless = altered(unlearned, "relearning", "options", "max_steps", value=10**12)
    assert checks(endless, unlearned.evidence)["relearning"].state == "not checked"
    alone = checks(unlearned.record, changed(unlearned, retrained=None))["relearning"]
    assert (alone.state, alone.detail) == (
        "verified",
        "trained again, but for the retrained model: give --retrained",
    )


def test_a_patch_and_a_record_are_matched_by_hash(unlearned: Unlearned) -> None:
    claim, record = "a forget patch makes this change", unlearned.record
    hashes = {
        part: {name: entry["sha256"] for name, entry in getattr(record, part).items()} for part in ("base", "result")
    }
    touched = [name for name in hashes["base"] if hashes["base"][name] != hashes["result"][name]]
    patch = {part: {name: found[name] for name in touched} for part, found in hashes.items()}
    assert checks(record, audit.Evidence(patch=patch))[claim].state == "verified"
    assert checks(record, audit.Evidence(patch=hashes))[claim].state == "verified"

    def wrong(part: str, **entries: Any) -> str:
        found = checks(record, audit.Evidence(patch={**patch, part: {**patch[part], **entries}}))[claim]
        assert found.state == "differs"
        return found.detail

    assert "tensor '0.weight' of the result is 000000000000... in the patch" in wrong(
        "result", **{"0.weight": "0" * 64}
    )
    assert "tensor 'extra' of the patch is not in the record's base" in wrong("base", extra="0" * 64)
    fewer = {part: {n: h for n, h in found.items() if n != "0.weight"} for part, found in patch.items()}
    assert checks(record, audit.Evidence(patch=fewer))[claim].detail == (
        "tensor '0.weight' changes, and not by the patch"
    )
    of_one = audit.of_patch(patch["base"], patch["result"], patch_sha256="a" * 64)
    assert checks(of_one, audit.Evidence(patch={**patch, "sha256": "a" * 64}))[claim].state == "verified"
    other = checks(of_one, audit.Evidence(patch={**patch, "sha256": "b" * 64}))[claim]
    assert "the record is of another patch file" in other.detail


def test_a_patchs_record_says_what_it_does_not_know() -> None:
    found = checks(audit.of_patch({"a": "a" * 64}, {"a": "b" * 64}))
    assert found["forgotten samples"].detail == "the record names none"
    assert found["how many values changed"].detail == "the record does not say"
    assert found["selected coordinates"].detail == "the record has no selection"


def test_a_record_of_any_content_gets_an_answer(unlearned: Unlearned) -> None:
    """Whoever writes a record may write anything that has the form of one: checks must not break on it."""
    document = json.loads(unlearned.record.text())
    evidence = only(unlearned, "base", "result", "forget", "retain", "salt", "selection")
    heavy = changed(unlearned, gan=None)
    tried = 0
    for place in places(document):
        if place[0] in ("statement", "machine", "sha256", "base", "result") or len(place) > 4:
            continue
        for value in ("x", {}, *([None] if len(place) < 3 else [])):
            if at(document, place) == value:
                continue
            try:
                record = rehashed(with_other(document, place, value))
            except ValueError:
                continue  # it has not the form of one
            figures = place[0] in ("metrics", "relearning") and value in (None, "x") and len(place) < 3
            assert audit.verify(record, heavy if figures else evidence)
            tried += 1
    assert tried > 250


def test_the_salt_is_checked_before_it_is_used(unlearned: Unlearned) -> None:
    with pytest.raises(ValueError, match="salt must be 32 bytes long"):
        audit.data_of(unlearned.forget, salt=SALT[:5])
