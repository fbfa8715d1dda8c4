"""The checks of a record's figures: measured again, and compared with some tolerance.

Figures are of checkpoints and samples. So they are measured again only on what the record's hashes have shown to be
these, and each part of them is a check of its own: none is called verified for another one's sake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fgunlearn.audit.document import AuditRecord, inside
from fgunlearn.audit.evidence import Check, Evidence, checked
from fgunlearn.canonical_json import plain

if TYPE_CHECKING:
    from fgunlearn.audit.measuring import RelearningOptions

_SHARE = 0.001  # that another machine may make of a share, beside one sample
_LOSS = 0.02  # and of a loss, as a share of it
_DIFFERENCE = 0.001  # of a difference of losses, as a share of 1 + it
_EXACT = ("samples", "resamples", "seed", "steps")
_MOST_STEPS = 100_000
_NONE = "the record has none"

Limit = Callable[[tuple[str, ...], float], float]
"""How far the record's number may be from what was found, by where it stands and what was found."""

_OF = {"forget": "forgotten samples", "retain": "remaining samples", "heldout": "held-out samples"}
_OPTIONS = {
    "forget": "--data and --forget",
    "retain": "--data and --forget",
    "heldout": "--heldout",
    "base_model": "--base and --arch",
    "result_model": "--result and --arch",
    "gan": "--gan",
    "retrained": "--retrained",
}


def figure_checks(record: AuditRecord, shown: Evidence, given: Evidence) -> list[Check]:
    """Accuracies and membership of both models, the unlearning degree, and relearning.

    Args:
        record: that claims them.
        shown: of the evidence what is known to be what the record is about.
        given: all of it, to say what is missing.
    """
    return [
        *_measured_again(record, "base", shown, given),
        *_measured_again(record, "result", shown, given),
        _degree(inside(record.metrics, "unlearning_degree"), shown, given),
        *_relearning(record.relearning, shown, given),
    ]


def _missing(shown: Evidence, given: Evidence, *parts: str) -> str | None:
    """Why nothing can be measured; None where nothing is missing."""
    absent = dict.fromkeys(_OPTIONS[part] for part in parts if getattr(given, part) is None)
    if absent:
        return f"give {', '.join(absent)}"
    other = dict.fromkeys(_OPTIONS[part] for part in parts if getattr(shown, part) is None)
    return f"what is given by {', '.join(other)} is not shown to be the record's" if other else None


def _measured_again(record: AuditRecord, part: str, shown: Evidence, given: Evidence) -> Iterator[Check]:
    stated = inside(record.metrics, part)
    claims = {name: f"accuracy of the {part} on {of}" for name, of in _OF.items()}
    claims["membership"] = f"membership of the {part}"
    needs = {name: (f"{part}_model", "forget", name) for name in _OF}
    needs["membership"] = needs["heldout"]
    why = {name: _NONE if stated is None else _missing(shown, given, *needs[name]) for name in claims}
    found: dict[str, Any] = {}
    if None in why.values():
        from fgunlearn.audit.measuring import measured

        assert shown.forget is not None
        seed = _seed(inside(stated, "membership", "seed"))
        found = measured(getattr(shown, f"{part}_model"), shown.forget, shown.retain, shown.heldout, seed=seed)
    for name, claim in claims.items():
        reason = why[name]
        if reason is not None:
            yield Check(claim, "not checked", reason)
        elif stated[name] is None and name in ("retain", "heldout", "membership"):
            yield Check(claim, "not checked", _NONE)
        else:
            samples = inside(found, "forget", "samples") if name == "membership" else found[name]["samples"]
            yield _compared(claim, stated[name], found[name], _of_models(samples), "measured again")


def _seed(stated: object) -> int:
    """A seed as the record holds it: beyond 2**53 as text."""
    try:
        return int(stated) if isinstance(stated, (int, str)) else 0
    except ValueError:
        return 0


def _of_models(samples: int) -> Limit:
    def limit(path: tuple[str, ...], found: float) -> float:
        if path[-1] in _EXACT or path[0] == "options":
            return 0.0
        return 1e-5 + _LOSS * abs(found) if path[-1] in ("loss", "target") else _SHARE + 1 / samples

    return limit


def _degree(stated: Any, shown: Evidence, given: Evidence) -> Check:
    claim = "unlearning degree"
    needs = ["gan", "base_model", "result_model", "forget"]
    if inside(stated, "net") is not None:
        needs.append("heldout")
    why = _NONE if stated is None else _missing(shown, given, *needs)
    if why is not None:
        return Check(claim, "not checked", why)
    own = stated.get("gan_sha256")
    if own is not None and given.gan_sha256 is None:
        return Check(claim, "not checked", "the SPD-GAN given is not shown to be the record's")
    from fgunlearn.audit.measuring import degree

    found = degree(
        shown.base_model,  # type: ignore[arg-type]
        shown.result_model,  # type: ignore[arg-type]
        shown.gan,
        shown.forget,  # type: ignore[arg-type]
        shown.heldout if len(needs) == 5 else None,
        seed=_seed(stated.get("seed")),
    )
    if own not in (None, given.gan_sha256):
        return Check(claim, "differs", "it was measured with another SPD-GAN")
    of_models = _of_models(_count(shown))

    def limit(path: tuple[str, ...], found: float) -> float:
        return _DIFFERENCE * (1 + abs(found)) if {"loss", "net_loss"} & {*path} else of_models(path, found)

    compared = {name: value for name, value in stated.items() if name != "gan_sha256"}
    said = "measured again" if own is not None else "measured again, with an SPD-GAN that the record does not name"
    return _compared(claim, compared, found, limit, said)


def _relearning(stated: Any, shown: Evidence, given: Evidence) -> Iterator[Check]:
    claims = ("relearning", "relearning of the retrained model")
    why = _NONE if stated is None else _missing(shown, given, "base_model", "result_model", "forget")
    if why is not None:
        yield from (Check(claim, "not checked", why) for claim in claims)
        return
    from fgunlearn.audit.measuring import RelearningOptions, relearned

    try:
        options = RelearningOptions(
            **{n: _seed(v) if n == "seed" else v for n, v in stated["options"].items() if n != "optimizer"}
        )
    except (TypeError, ValueError) as error:
        yield Check(claims[0], "differs", f"it can't be measured with its options: {error}")
        yield Check(claims[1], "not checked", "it can't be measured with the record's options")
        return
    if options.max_steps > _MOST_STEPS:
        many = f"{options.max_steps} steps are more than are taken on a record's word"
        yield from (Check(claim, "not checked", many) for claim in claims)
        return
    try:
        found = relearned(shown.base_model, shown.result_model, shown.forget, given.retrained, options)  # type: ignore[arg-type]
    except ValueError as error:  # such as training that diverges
        yield Check(claims[0], "differs", f"it can't be measured with its options: {error}")
        yield Check(claims[1], "not checked", "it can't be measured with the record's options")
        return
    limit = _of_models(_count(shown))
    how = f"trained again by SGD, lr {options.lr:g}, {options.max_steps} steps, looked at every {options.check_every}"
    (own, reference), (own_found, reference_found) = (_in_two(each) for each in (stated, found))
    for way in ("as_is", "rounded"):
        ours = _forgiven(own[way], own_found[way], "unlearned", options)
        theirs = _forgiven(reference[way], reference_found[way], "retrained", options)
        if _is(ours) and _is(theirs):  # that of the steps taken, whose rounding it has
            reference_found[way]["ratio"] = (
                ours["steps"] / theirs["steps"] if theirs["reached"] and theirs["steps"] else None
            )
    yield _compared(claims[0], own, own_found, limit, how)
    if reference == _in_two(dict.fromkeys(stated))[1]:
        yield Check(claims[1], "not checked", _NONE)
    elif given.retrained is None:
        yield Check(claims[1], "not checked", "give --retrained and --arch")
    elif stated["retrained_sha256"] not in (None, found["retrained_sha256"]):
        yield Check(claims[1], "differs", "it was measured with another retrained model")
    else:
        yield _compared(claims[1], reference, reference_found, limit, how)


def _in_two(relearning: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is of the unlearned model and of the source; and what is of the retrained one."""
    own: dict[str, Any] = {"options": relearning["options"]}
    reference: dict[str, Any] = {"retrained_sha256": relearning["retrained_sha256"]}
    for way in ("as_is", "rounded"):
        figures = dict(relearning[way] or {})
        accuracy = figures.pop("accuracy", None)
        rest = {name: value for name, value in accuracy.items() if name != "retrained"} if _is(accuracy) else accuracy
        reference[way] = {
            "accuracy": inside(accuracy, "retrained"),
            "retrained": figures.pop("retrained", None),
            "ratio": figures.pop("ratio", None),
        }
        own[way] = {"accuracy": rest, **figures}
    return own, reference


def _forgiven(stated: dict[str, Any], found: dict[str, Any], name: str, options: RelearningOptions) -> Any:
    """The steps found; or those stated, put in their place, if they are one look away."""
    was: Any = stated.get(name)
    now: Any = found.get(name)
    if not (_is(was) and _is(now) and was.keys() == now.keys()):
        return now
    (steps, reached), (most, every) = (was["steps"], was["reached"]), (options.max_steps, options.check_every)
    if not (isinstance(steps, int) and isinstance(reached, bool) and (steps % every == 0 or steps == most)):
        return now
    # What is reached one look before the last, another machine may not reach at all. That no step is needed at all is
    # no matter of a look.
    alike = reached is now["reached"] or min(steps, now["steps"]) >= most - every
    alike = alike and (steps == 0) is (now["steps"] == 0) and (reached or steps == most)
    if alike and 0 <= steps <= most and abs(steps - now["steps"]) <= every:
        found[name] = was
    return found[name]


def _compared(claim: str, stated: Any, found: Any, limit: Limit, said: str) -> Check:
    exact = plain(found) == stated
    how = ": exactly the same" if exact else ": as near as another machine comes"
    return checked(claim, _differences(stated, plain(found), (), limit), said + how)


_MISSING = object()


def _differences(stated: Any, found: Any, path: tuple[str, ...], limit: Limit) -> Iterator[str]:
    """Where figures are further apart than machines explain, or one is missing."""
    if _is(stated) and _is(found):
        for name in [*found, *(other for other in stated if other not in found)]:
            yield from _differences(stated.get(name, _MISSING), found.get(name, _MISSING), (*path, name), limit)
        return
    name = " ".join(path) or "all of it"
    if stated is _MISSING or found is _MISSING:
        yield f"{name}: the record leaves it out" if stated is _MISSING else f"{name}: nothing like it is measured"
    elif not (_is_number(stated) and _is_number(found)):
        if type(stated) is not type(found) or stated != found:
            yield f"{name}: {found!r:.40}, the record has {stated!r:.40}"
    elif abs(stated - found) > limit(path, found):
        yield f"{name}: {found:.6g}, the record has {stated:.6g}"


def _count(shown: Evidence) -> int:
    return sum(len(batch[1]) for batch in shown.forget or ())


def _is(value: object) -> bool:
    return isinstance(value, dict)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
