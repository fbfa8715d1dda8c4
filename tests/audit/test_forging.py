"""What somebody may write into a record, and what comes of it: checks call nothing verified that they did not see."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from typing import Any

import pytest

from audited import Unlearned, altered, at, checks, light, places, rehashed, with_other
from fgunlearn import audit
from fgunlearn.audit import measuring
from fgunlearn.audit.document import VERSION
from fgunlearn.canonical_json import canonical, indented

STATEMENT_1 = "8d1569fd93710255e197aac73cf939daa8492a29b711894bd030c9088134cac1"
"""SHA-256 of the canonical statement of version 1."""

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


def test_an_altered_record_is_told_by_its_hash(unlearned: Unlearned) -> None:
    document = with_other(json.loads(unlearned.record.text()), ("seconds", "repair"), 0.001)
    found = checks(audit.AuditRecord.from_text(indented(document)))["the record's own hash"]
    assert found.state == "differs"
    assert unlearned.record.sha256 in found.detail


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
