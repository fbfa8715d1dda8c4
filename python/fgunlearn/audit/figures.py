"""The checks of a record's figures: measured again, and compared with some tolerance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fgunlearn.audit.document import AuditRecord, inside
from fgunlearn.audit.verifying import Check, Evidence, checked

_SHARE = 0.001  # that another machine may make of a share, beside one sample
_LOSS = 0.001  # and of a loss, as a share of it
_MOST_STEPS = 100_000
_EXACT = ("samples", "resamples", "seed")
_LOSSES = {"loss", "net_loss", "target"}
_LEFT_OUT = ("ratio", "reached")  # functions of the steps, which are compared


def figure_checks(record: AuditRecord, given: Evidence) -> list[Check]:
    """Accuracies and membership of both models, the unlearning degree, and relearning."""
    metrics = record.metrics
    return [
        _measured_again("base", inside(metrics, "base"), given.base_model, given),
        _measured_again("result", inside(metrics, "result"), given.result_model, given),
        _degree(inside(metrics, "unlearning_degree"), given),
        _relearning(record.relearning, given),
    ]


def _measured_again(part: str, stated: Any, model: Any, given: Evidence) -> Check:
    claim = f"accuracy and membership of the {part}"
    if stated is None:
        return Check(claim, "not checked", "the record has none")
    if model is None or given.forget is None:
        return Check(claim, "not checked", f"give --{part}, --arch, --data and --forget")
    from fgunlearn.audit.measuring import measured

    seed = inside(stated, "membership", "seed")
    found = measured(model, given.forget, given.retain, given.heldout, seed=seed if isinstance(seed, int) else 0)
    heldout = given.heldout is not None
    compared = (
        {n: v for n, v in stated.items() if heldout or n not in ("heldout", "membership")} if _is(stated) else stated
    )
    left_out = "" if heldout or compared == stated else ", but for held-out data: give --heldout"
    return checked(claim, [*_differences(compared, found, (), _count(given))], f"measured again{left_out}")


def _degree(stated: Any, given: Evidence) -> Check:
    claim = "unlearning degree"
    if stated is None:
        return Check(claim, "not checked", "the record has none")
    if given.gan is None or given.base_model is None or given.result_model is None or given.forget is None:
        return Check(claim, "not checked", "give --gan, --base, --result, --arch, --data, --forget and --heldout")
    if inside(stated, "net") is not None and given.heldout is None:
        return Check(claim, "not checked", "give --heldout")
    from fgunlearn.audit.measuring import degree

    found = degree(given.base_model, given.result_model, given.gan, given.forget, given.heldout)
    compared = {n: v for n, v in stated.items() if n != "gan_sha256"} if _is(stated) else stated
    differences = [*_differences(compared, found, (), _count(given))]
    own = inside(stated, "gan_sha256")
    if own is not None and given.gan_sha256 not in (None, own):
        differences.insert(0, "it was measured with another SPD-GAN")
    return checked(claim, differences, "measured again")


def _relearning(stated: Any, given: Evidence) -> Check:
    claim = "relearning"
    if stated is None:
        return Check(claim, "not checked", "the record has none")
    if given.base_model is None or given.result_model is None or given.forget is None:
        return Check(claim, "not checked", "give --base, --result, --arch, --data and --forget")
    from fgunlearn.audit.measuring import RelearningOptions, relearned

    try:
        options = RelearningOptions(**{n: v for n, v in stated["options"].items() if n != "optimizer"})
        if options.max_steps > _MOST_STEPS:
            return Check(claim, "not checked", f"{options.max_steps} steps are more than are taken on a record's word")
        found = relearned(given.base_model, given.result_model, given.forget, given.retrained, options)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Check(claim, "differs", f"it can't be measured with its options: {error}")
    differences = _differences(stated, found, (), _count(given), options.check_every)
    reference = inside(stated, "as_is", "retrained") is not None and given.retrained is None
    left_out = ", but for the retrained model: give --retrained" if reference else ""
    return checked(claim, [*differences], f"trained again{left_out}")


def _differences(stated: Any, found: Any, path: tuple[str, ...], samples: int, steps: int = 0) -> Iterator[str]:
    """Where figures are further apart than machines explain; what was not measured again is left out."""
    if _is(stated) and _is(found):
        for name, value in stated.items():
            now = found.get(name)
            left_out = value is None or (now is None and name == "retrained")
            if name not in _LEFT_OUT and not left_out:
                count = inside(found, "samples") or samples
                yield from _differences(value, now, (*path, name), count, steps)
        return
    name = " ".join(path)
    if not (_is_number(stated) and _is_number(found)) or path[-1] in _EXACT:
        if stated != found:
            yield f"{name}: {found!r:.40}, the record has {stated!r:.40}"
        return
    limit = _LOSS * (1 + abs(found)) if _LOSSES & {*path} else _SHARE + 1 / samples
    if abs(stated - found) > (steps if path[-1] == "steps" else limit):
        yield f"{name}: {found:.6g}, the record has {stated:.6g}"


def _count(given: Evidence) -> int:
    assert given.forget is not None
    return sum(len(batch[1]) for batch in given.forget)


def _is(value: object) -> bool:
    return isinstance(value, dict)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
