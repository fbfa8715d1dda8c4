"""Figures are measured again, on what was shown to be the record's, and differ where machines don't explain it."""

from __future__ import annotations

import dataclasses
import json

from audited import Unlearned, altered, at, changed, checks, rehashed, with_other
from fgunlearn import audit

LOOKS = ("relearning", "options", "check_every")


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
