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
from audited import SALT, Unlearned, altered, changed, checks, only, rehashed, with_other
from fgunlearn import audit
from fgunlearn.audit.making import selected
from fgunlearn.audit.verifying import WORD
from fgunlearn.selection import Selection


def test_everything_is_verified_that_can_be(unlearned: Unlearned) -> None:
    found = checks(unlearned.record, unlearned.evidence)
    assert {claim for claim, check in found.items() if check.state != "verified"} == {
        "signature",
        "a forget patch is for these checkpoints",
        WORD,
    }
    exactly = [check.detail for check in found.values() if "again" in check.detail]
    assert len(exactly) == 11
    assert all("exactly the same" in detail for detail in exactly if "drawn" not in detail)


def test_without_evidence_only_the_record_itself_is_looked_at_and_the_rest_says_what_it_needs(
    unlearned: Unlearned,
) -> None:
    found = checks(unlearned.record)
    verified = {claim for claim, check in found.items() if check.state == "verified"}
    assert verified == {
        "the record's own hash",
        "the record agrees with itself",
        "the list of forgotten samples",
    }
    assert not [check for check in found.values() if check.state == "differs"]
    for claim, check in found.items():
        assert check.detail, claim
    assert found["base checkpoint"].detail == "give --base"
    assert found["relearning"].detail == "give --base and --arch, --result and --arch, --data and --forget"


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
    assert fewer.detail == "the record has 48 samples, 47 are given"
    u, v = unlearned.forget[0]
    copied = [(torch.cat([x[1:], u[:1]]), torch.cat([y[1:], v[:1]]))]
    found = checks(unlearned.record, changed(unlearned, retain=copied))["remaining samples"]
    assert found.detail.startswith("they are not the record's: ")
    assert found.detail.endswith("1 are the same as a forgotten one, the record has 0")
    a, b = unlearned.heldout[0]
    other = checks(unlearned.record, changed(unlearned, heldout=[(a, b.flip(0))]))["held-out samples"]
    assert other.detail.startswith("they are not the record's: ")
    part = checks(unlearned.record, changed(unlearned, forget=None, retain=None))["held-out samples"]
    assert part.state == "verified"
    assert "not whether they are among the training data: give --data and --forget" in part.detail


def test_held_out_samples_that_were_trained_on_are_told(unlearned: Unlearned) -> None:
    (a, b), (x, y) = unlearned.heldout[0], unlearned.retain[0]
    heldout = [(torch.cat([a, x[:2]]), torch.cat([b, y[:2]]))]
    data = audit.data_of(unlearned.forget, unlearned.retain, heldout, salt=SALT, steered=False)
    assert data["heldout"]["copies"] == 2
    record = dataclasses.replace(unlearned.record, data=data, sha256="")
    given = changed(unlearned, heldout=heldout)
    assert "2 of them the same as one of the training data" in checks(record, given)["held-out samples"].detail
    hidden = rehashed(with_other(json.loads(record.text()), ("data", "heldout", "copies"), 0))
    assert checks(hidden, given)["held-out samples"].state == "differs"


def test_a_sample_named_twice_is_not_two_samples(unlearned: Unlearned) -> None:
    (x, y), claim = unlearned.forget[0], "forgotten samples"
    twice = [(torch.cat([x[:1], x]), torch.cat([y[:1], y]))]
    record = dataclasses.replace(unlearned.record, data=audit.data_of(twice, salt=SALT), sha256="")
    other = [(torch.cat([x[1:2], x]), torch.cat([y[1:2], y]))]
    assert checks(record, audit.Evidence(forget=twice, salt=SALT))[claim].state == "verified"
    found = checks(record, audit.Evidence(forget=other, salt=SALT))[claim]
    assert found.detail == "1 of the record's samples are not among those given"


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
    assert selection.names is not None
    assert checks(unlearned.record, only(unlearned, "base", "result"))[claim].state == "not checked"
    fewer = Selection(selection.shapes, [index[1:] for index in selection.indices], names=selection.names)
    found = checks(unlearned.record, changed(unlearned, selection=fewer))[claim]
    assert found.state == "differs"
    assert f"k: {fewer.k}, the record has {selection.k}" in found.detail
    nothing = checks(unlearned.record, changed(unlearned, selection=fewer))["nothing else changed"]
    assert (nothing.state, nothing.detail) == ("not checked", "the coordinates are not the record's")
    moved = [index.clone() for index in selection.indices]
    moved[0][-1] = next(i for i in range(95, 0, -1) if i not in moved[0])
    other = Selection(selection.shapes, [moved[0].sort().values, *moved[1:]], names=selection.names)
    assert checks(unlearned.record, changed(unlearned, selection=other))[claim].detail.startswith("sha256: ")
    # A record of fewer coordinates than changed, and the selection to go with it.
    stated = {**selected(fewer, None), "strategy": None}
    record = dataclasses.replace(unlearned.record, selection=stated, sha256="")
    outside = checks(record, changed(unlearned, selection=fewer))
    assert outside[claim].state == "verified"
    assert "has 1 changes outside" in outside["nothing else changed"].detail
    more = Selection([*selection.shapes, (9,)], [*selection.indices, torch.arange(9)], names=[*selection.names, "x"])
    record = dataclasses.replace(unlearned.record, selection={**selected(more, None), "strategy": None}, sha256="")
    invented = checks(record, changed(unlearned, selection=more))["nothing else changed"]
    assert invented.detail == "tensor 'x' of shape [9] is selected from, and the checkpoints have none like it"
    buffers = checks(unlearned.record, unlearned.evidence)["nothing else changed"]
    assert buffers.detail == (
        "no value off the selection but in 1.num_batches_tracked, 1.running_mean, 1.running_var, which the record "
        "calls buffers"
    )
    hidden = altered(unlearned, "changed", "buffers", value=["1.running_mean", "1.running_var"])
    found = checks(hidden, unlearned.evidence)["nothing else changed"]
    assert found.detail == "tensor '1.num_batches_tracked' changed, and nothing of it is selected"


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


def test_a_patch_and_a_record_are_matched_by_hash(unlearned: Unlearned) -> None:
    claim, record = "a forget patch is for these checkpoints", unlearned.record
    hashes = {
        part: {name: entry["sha256"] for name, entry in getattr(record, part).items()} for part in ("base", "result")
    }
    assert checks(record, audit.Evidence(patch=hashes))[claim].state == "verified"

    def wrong(part: str, **entries: Any) -> str:
        found = checks(record, audit.Evidence(patch={**hashes, part: {**hashes[part], **entries}}))[claim]
        assert found.state == "differs"
        return found.detail

    assert "tensor '0.weight' of the result: sha256 is 000000000000... in the patch" in wrong(
        "result", **{"0.weight": "0" * 64}
    )
    assert "tensor 'extra' of the patch is not in the record's base" in wrong("base", extra="0" * 64)
    shaped = {**record.base["0.weight"], "shape": [6, 16]}
    assert "tensor '0.weight' of the base: shape is [6, 16] in the patch" in wrong("base", **{"0.weight": shaped})
    fewer = {part: {n: h for n, h in found.items() if n != "0.weight"} for part, found in hashes.items()}
    assert checks(record, audit.Evidence(patch=fewer))[claim].detail.startswith(
        "tensor '0.weight' of the record's base is not in the patch"
    )


def test_a_patchs_record_is_held_against_all_that_the_patch_says(unlearned: Unlearned) -> None:
    claim = "a forget patch is for these checkpoints"
    patch = {
        "base": unlearned.record.base,
        "result": unlearned.record.result,
        "changed": {"0.weight": 3},
        "sha256": "a" * 64,
        "metadata": {"strategy": "topk", "seed": 2**60},
    }
    record = audit.of_patch(
        patch["base"], patch["result"], patch["metadata"], patch_sha256=patch["sha256"], changed=patch["changed"]
    )
    assert checks(record, audit.Evidence(patch=patch))[claim].state == "verified"
    for changes, said in (
        ({"sha256": "b" * 64}, "the record is of another patch file"),
        ({"sha256": None}, "the record is of another patch file"),
        ({"metadata": {"strategy": "randomk"}}, "the record has other metadata of the patch"),
        ({"changed": {"0.weight": 4}}, "the record counts other changes than the patch"),
    ):
        found = checks(record, audit.Evidence(patch={**patch, **changes}))[claim]
        assert (found.state, said in found.detail) == ("differs", True), changes


def test_a_patchs_record_says_what_it_does_not_know() -> None:
    found = checks(audit.of_patch({"a": "a" * 64}, {"a": "b" * 64}))
    assert found["forgotten samples"].detail == "the record names none"
    assert found["how many values changed"].detail == "the record does not say"
    assert found["selected coordinates"].detail == "the record has no selection"


def test_the_salt_is_checked_before_it_is_used(unlearned: Unlearned) -> None:
    with pytest.raises(ValueError, match="salt must be 32 bytes long"):
        audit.data_of(unlearned.forget, salt=SALT[:5])
