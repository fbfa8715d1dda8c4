"""Claims held against evidence: what fits is verified, what doesn't differs by name, and the rest is said."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import fgunlearn as fg
from audited import SALT, Unlearned, at, places, with_other
from fgunlearn import audit
from fgunlearn.audit import measuring
from fgunlearn.audit.canonical import canonical, indented
from fgunlearn.audit.document import VERSION
from fgunlearn.audit.making import selected
from fgunlearn.audit.verifying import WORD
from fgunlearn.selection import Selection

STATEMENT_1 = "8d1569fd93710255e197aac73cf939daa8492a29b711894bd030c9088134cac1"
"""SHA-256 of the canonical statement of version 1."""


LOOKS = ("relearning", "options", "check_every")


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
        "a forget patch is for these checkpoints",
        WORD,
    }
    exactly = [check.detail for check in found.values() if "again" in check.detail]
    assert len(exactly) == 11
    assert all("exactly the same" in detail for detail in exactly if "drawn" not in detail)


WORD_OF_THE_WRITER = (
    *(("created",), ("kind",), ("method",), ("perturbation",), ("repair",), ("seeds",), ("versions",), ("machine",)),
    *(("seconds",), ("selection", "strategy"), ("data", "heldout", "seen_by_unlearning")),
)
"""What nothing at hand can show: docs/audit.md lists it, and so does the last check."""


@pytest.fixture
def measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of the same models, samples and options are measured once: what is tried is how they are compared."""
    for name in ("measured", "degree", "relearned"):
        known: dict[Any, Any] = {}
        real = getattr(measuring, name)

        def once(*given: Any, known: dict[Any, Any] = known, real: Any = real, **options: Any) -> Any:
            key = (*(str(part) if dataclasses.is_dataclass(part) else id(part) for part in given), *options.items())
            if key not in known:
                known[key] = real(*given, **options)
            return copy.deepcopy(known[key])

        monkeypatch.setattr(measuring, name, once)


@pytest.mark.usefixtures("measured_once")
def test_no_other_field_can_be_changed_unnoticed(unlearned: Unlearned) -> None:
    """Whoever alters a record and hashes it anew is found out by evidence, whatever else he altered."""
    document = json.loads(unlearned.record.text())
    tried: dict[str, int] = {}
    for place in places(document):
        value = at(document, place)
        if isinstance(value, (dict, list)) and value:
            continue
        if place[0] in ("format", "version", "sha256", "signature") or any(
            place[: len(word)] == word for word in WORD_OF_THE_WRITER
        ):
            continue
        if place[0] == "metrics" and place[-1] == "seed":
            continue  # of resampling: the interval of another seed is as good
        if place[:2] == ("relearning", "options") and place[-1] in ("batch", "seed", "max_steps", "check_every"):
            continue  # 12 samples, no dropout, few steps: what is claimed with others is as true
        if isinstance(place[-1], int) and place[-1] > 1:
            continue  # one of many alike
        other = {bool: not value, str: f"{value}x", type(None): 0, dict: {"x": 1}, list: ["x"]}.get(type(value), 0)
        if isinstance(value, str) and len(value) == 64:
            other = "0" * 64
        if type(value) in (int, float):
            other = value + max(1, 4 * abs(value))  # beyond what machines differ by
        try:
            record = rehashed(with_other(document, place, other))
        except ValueError:
            continue  # it has not the form of one
        figures = place[0] in ("metrics", "relearning")
        found = audit.verify(record, unlearned.evidence if figures else light(unlearned))
        assert [check for check in found if check.state == "differs"], place
        tried[str(place[0])] = tried.get(str(place[0]), 0) + 1
    assert tried.keys() == {
        *("base", "result", "data", "selection", "changed", "metrics", "relearning", "statement"),
    }
    assert tried["metrics"] > 60
    assert tried["relearning"] > 20


def light(unlearned: Unlearned) -> audit.Evidence:
    """All evidence but what figures are measured with."""
    return changed(unlearned, base_model=None, result_model=None, retrained=None, gan=None)


@pytest.mark.usefixtures("measured_once")
def test_no_part_of_the_figures_can_be_left_out(unlearned: Unlearned) -> None:
    """Nor is an empty object one that has been measured again."""
    document = json.loads(unlearned.record.text())
    tried = 0
    for top in ("metrics", "relearning"):
        for place in places(document[top]):
            value = at(document[top], place)
            if not isinstance(value, dict) or (top == "metrics" and place == ("unlearning_degree",)):
                continue
            for other in ({}, *({k: v for k, v in value.items() if k != name} for name in list(value)[:1])):
                try:
                    record = rehashed(with_other(document, (top, *place), other))
                except ValueError:
                    continue
                found = [check.state for check in audit.verify(record, unlearned.evidence)]
                assert "differs" in found, (top, place, other)
                tried += 1
    assert tried > 40


def test_what_a_record_leaves_out_is_not_called_verified(unlearned: Unlearned) -> None:
    for place, claim in (
        (("metrics", "result", "membership"), "membership of the result"),
        (("metrics", "result", "retain"), "accuracy of the result on remaining samples"),
        (("metrics", "result"), "accuracy of the result on forgotten samples"),
        (("metrics", "unlearning_degree"), "unlearning degree"),
        (("metrics",), "membership of the base"),
        (("relearning",), "relearning"),
    ):
        found = checks(altered(unlearned, *place, value=None), unlearned.evidence)[claim]
        assert (found.state, found.detail) == ("not checked", "the record has none"), place
    forgotten = checks(altered(unlearned, "metrics", "base", "forget", value=None), unlearned.evidence)
    assert forgotten["accuracy of the base on forgotten samples"].state == "differs"


def test_figures_are_only_of_what_is_shown_to_be_the_records(unlearned: Unlearned) -> None:
    """Measured on other weights or samples they would say nothing of these, even where they are the same."""
    base, result = unlearned.evidence.base, unlearned.evidence.result
    (x, y), claims = (
        unlearned.forget[0],
        ("accuracy of the base on forgotten samples", "relearning", "unlearning degree"),
    )
    for changes, option in (
        ({"base": result}, "--base and --arch"),
        ({"base_model": unlearned.result.model}, "--base and --arch"),
        ({"base": None, "base_model": unlearned.result.model}, "--base and --arch"),
        ({"forget": [(x + 1e-6, y)]}, "--data and --forget"),
        ({"salt": None}, "--data and --forget"),
    ):
        found = checks(unlearned.record, changed(unlearned, **changes))
        for claim in claims:
            assert found[claim].state == "not checked", (changes, claim)
            assert f"what is given by {option}" in found[claim].detail
            assert "is not shown to be the record's" in found[claim].detail
    without_files = checks(unlearned.record, changed(unlearned, base=None, result=None))
    assert without_files[claims[0]].state == "verified"
    a, b = unlearned.heldout[0]
    other = checks(unlearned.record, changed(unlearned, heldout=[(a[1:], b[1:])]))
    assert other["membership of the base"].state == "not checked"
    assert other["accuracy of the base on forgotten samples"].state == "verified"
    nameless = dataclasses.replace(unlearned.record, data=None, sha256="")
    assert checks(nameless, unlearned.evidence)["relearning"].state == "not checked"
    swapped = checks(unlearned.record, changed(unlearned, base=result, result=base))
    for claim in ("how many values changed", "nothing else changed"):
        assert (swapped[claim].state, swapped[claim].detail) == (
            "not checked",
            "the checkpoints given are not shown to be the record's",
        )


def test_a_record_agrees_with_itself(unlearned: Unlearned) -> None:
    claim = "the record agrees with itself"
    tamed = altered(unlearned, "statement", "not_proved", value=[])
    assert "its statement of what it proves" in checks(tamed)[claim].detail
    assert (
        checks(altered(unlearned, "seeds", "repair", value=7))[claim].detail
        == "the seed of repair is 0 in its options and 7 in seeds"
    )
    same = altered(unlearned, "result", "0.weight", value=unlearned.record.base["0.weight"])
    assert "tensor '0.weight' changed by its counts, and not by its hashes" in checks(same)[claim].detail


def test_the_statement_is_that_of_the_format(unlearned: Unlearned) -> None:
    """Other words are another version of the format, or older records would be called altered."""
    assert VERSION == 1
    assert hashlib.sha256(canonical(unlearned.record.statement)).hexdigest() == STATEMENT_1


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


def test_figures_are_measured_again(unlearned: Unlearned) -> None:
    claim = "accuracy of the result on remaining samples"
    for place, value in (
        (("forget", "accuracy", "value"), 0.01),
        (("heldout", "loss"), 9.0),
        (("membership", "auc", "value"), 0.05),
        (("retain", "samples"), 49),
        (("membership", "attack"), "guess"),
    ):
        found = checks(altered(unlearned, "metrics", "result", *place, value=value), unlearned.evidence)
        wrong = [check for check in found.values() if check.state == "differs"]
        assert len(wrong) == 1, place
        assert wrong[0].detail.startswith(" ".join(place[1:])), wrong[0].detail
    # One sample more or less, as another machine may find, is no difference.
    assert unlearned.record.metrics is not None
    near = unlearned.record.metrics["result"]["retain"]["accuracy"]["value"] - 1 / 48
    same = altered(unlearned, "metrics", "result", "retain", "accuracy", "value", value=near)
    found = checks(same, unlearned.evidence)[claim]
    assert (found.state, found.detail) == ("verified", "measured again: as near as another machine comes")
    part = checks(unlearned.record, changed(unlearned, heldout=None))
    assert part[claim].state == "verified"
    for missing in ("accuracy of the result on held-out samples", "membership of the result"):
        assert (part[missing].state, part[missing].detail) == ("not checked", "give --heldout")


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
    alone = checks(unlearned.record, changed(unlearned, retrained=None))
    assert alone["relearning"].state == "verified"
    reference = alone["relearning of the retrained model"]
    assert (reference.state, reference.detail) == ("not checked", "give --retrained and --arch")


def test_a_retrained_model_is_the_one_that_was_compared_with(unlearned: Unlearned) -> None:
    """Another one, such as the unlearned model itself, would make any unlearning look right."""
    claim = "relearning of the retrained model"
    found = checks(unlearned.record, changed(unlearned, retrained=unlearned.result.model))[claim]
    assert (found.state, found.detail) == ("differs", "it was measured with another retrained model")
    given = unlearned.evidence
    assert given.base_model is not None
    assert given.result_model is not None
    options = audit.RelearningOptions(tolerance=0.02, max_steps=12, check_every=1)
    alone = audit.relearned(given.base_model, given.result_model, unlearned.forget, None, options)
    record = dataclasses.replace(unlearned.record, relearning=alone, sha256="")
    found = checks(record, unlearned.evidence)[claim]
    assert (found.state, found.detail) == ("not checked", "the record has none")


def test_steps_may_be_one_look_away_and_no_more(unlearned: Unlearned) -> None:
    assert unlearned.record.relearning is not None
    place = ("relearning", "as_is", "unlearned")
    steps = at(unlearned.record.relearning, place[1:])["steps"]
    assert 2 < steps < 11
    for change, state in ((1, "verified"), (2, "differs")):
        record = altered(unlearned, *place, "steps", value=steps - change)
        assert checks(record, unlearned.evidence)["relearning"].state == state
    never = altered(unlearned, *place, "reached", value=False)
    assert checks(never, unlearned.evidence)["relearning"].state == "differs"
    coarse = rehashed(with_other(json.loads(altered(unlearned, *place, "steps", value=0).text()), LOOKS, 12))
    assert checks(coarse, unlearned.evidence)["relearning"].state == "differs"  # however wide a look is
    better = altered(unlearned, "relearning", "as_is", "ratio", value=1.0)
    assert checks(better, unlearned.evidence)["relearning of the retrained model"].state == "differs"


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


@pytest.mark.usefixtures("measured_once")
def test_a_record_of_any_content_gets_an_answer(unlearned: Unlearned) -> None:
    """Whoever writes a record may write anything that has the form of one: checks must not break on it."""
    document = json.loads(unlearned.record.text())
    tried = 0
    for place in places(document):
        if place[0] in ("statement", "machine", "sha256", "base", "result") or len(place) > 3:
            continue
        if any(isinstance(name, int) and name > 0 for name in place):
            continue  # one of many alike
        for value in ("x", {}, *([None] if len(place) < 3 else [])):
            if at(document, place) == value:
                continue
            try:
                record = rehashed(with_other(document, place, value))
            except ValueError:
                continue  # it has not the form of one
            figures = place[0] in ("metrics", "relearning")
            assert audit.verify(record, unlearned.evidence if figures else light(unlearned))
            tried += 1
    assert tried > 150


def test_the_salt_is_checked_before_it_is_used(unlearned: Unlearned) -> None:
    with pytest.raises(ValueError, match="salt must be 32 bytes long"):
        audit.data_of(unlearned.forget, salt=SALT[:5])
