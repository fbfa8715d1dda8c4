"""The figures of a record: what can be measured without a retrained model, and relearning beside one where there is."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from fgunlearn.arguments import check_count, check_number, check_seed
from fgunlearn.audit.fingerprints import fingerprint, fingerprint_hash
from fgunlearn.batches import Loader, x_and_y
from fgunlearn.canonical_json import plain
from fgunlearn.metrics import Outputs, mia_of, proportion, relearning_check, unlearning_degree
from fgunlearn.metrics.quantization import check_bits
from fgunlearn.metrics.relearning import Relearning, RelearnTime
from fgunlearn.seeding import seeded

RESAMPLES = 1000  # of intervals that are not in closed form

_DEGREE = ("acc", "loss", "net", "net_loss", "source_accuracy", "unlearned_accuracy", "source_accuracy_unshifted")


def measured(
    model: nn.Module, forget: Loader, retain: Loader | None = None, heldout: Loader | None = None, *, seed: int = 0
) -> dict[str, Any]:
    """What one model shows of the data, ready for a record.

    Args:
        model: looked at in eval mode.
        forget: D_u, ``(x, y)`` batches.
        retain: the remaining data.
        heldout: data never trained on.
        seed: of the resampling.

    Returns:
        For "forget", "retain" and "heldout", None where it is not given: "samples", "accuracy" with its 95% interval
        (:func:`fgunlearn.metrics.proportion`) and "loss", the mean cross entropy in nats. "membership": AUC and TPR at
        1% FPR of the loss attack of D_u against the held-out data, with 95% bootstrap intervals, None without it.

    Raises:
        TypeError, ValueError: as :class:`fgunlearn.metrics.Outputs`.
    """
    loaders = {"forget": forget, "retain": retain, "heldout": heldout}
    seen = {part: None if loader is None else Outputs.of(model, loader, part) for part, loader in loaders.items()}
    figures: dict[str, Any] = {part: None if outputs is None else _figures(outputs) for part, outputs in seen.items()}
    figures["membership"] = None
    if seen["forget"] is not None and seen["heldout"] is not None:
        attack = mia_of(seen["forget"], seen["heldout"], attacks=["loss"], resamples=RESAMPLES, seed=seed)["loss"]
        figures["membership"] = {
            "attack": "loss",
            "auc": dataclasses.asdict(attack.auc),
            "tpr_at_1_percent_fpr": dataclasses.asdict(attack.tpr),
            "resamples": RESAMPLES,
            "seed": seed,
        }
    return plain(figures)


def _figures(outputs: Outputs) -> dict[str, Any]:
    right = int((outputs.logits.argmax(1) == outputs.labels).sum())
    return {
        "samples": len(outputs),
        "accuracy": dataclasses.asdict(proportion(right, len(outputs))),
        "loss": float(outputs.losses.mean()),
    }


def degree(
    base: nn.Module, result: nn.Module, gan: Any, forget: Loader, heldout: Loader | None, *, seed: int = 0
) -> dict[str, Any]:
    """The unlearning degree, ready for a record: see :func:`fgunlearn.metrics.unlearning_degree`.

    Args:
        base: the model before unlearning.
        result: the model after it.
        gan: a :class:`fgunlearn.SPDGAN` fitted on the base and its data.
        forget: D_u.
        heldout: control data; None to leave UD_net out.
        seed: of the resampling.

    Raises:
        TypeError, ValueError: as that one.
    """
    degree = unlearning_degree(base, result, forget, gan, heldout, resamples=RESAMPLES, seed=seed)
    found = dataclasses.asdict(degree)
    return plain({**{name: found[name] for name in _DEGREE}, "resamples": RESAMPLES, "seed": seed})


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelearningOptions:
    """How the forgotten is trained back: SGD on D_u until its loss is near the base's again.

    Args:
        tolerance: of the target, (1 + tolerance) times the base model's mean loss on D_u.
        lr: of SGD.
        momentum: of SGD.
        max_steps: the bound.
        check_every: steps between two looks, to which steps are rounded up.
        bits: that weights are rounded to.
        batch: samples per step, in the loader's order.
        seed: of what is random on the CPU in a model that is trained, as dropout is; each starts from it.

    Raises:
        TypeError, ValueError: what is wrong with which of them.
    """

    tolerance: float = 1.0
    lr: float = 0.05
    momentum: float = 0.9
    max_steps: int = 200
    check_every: int = 4
    bits: int = 8
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_number(self.tolerance, "tolerance", low=0.0)
        check_number(self.lr, "lr", low=0.0, above=True)
        check_number(self.momentum, "momentum", low=0.0)
        for name in ("max_steps", "check_every", "batch"):
            check_count(getattr(self, name), name)
        check_bits(self.bits)
        check_seed(self.seed)


def relearned(
    base: nn.Module,
    result: nn.Module,
    forget: Loader,
    retrained: nn.Module | None = None,
    options: RelearningOptions | None = None,
) -> dict[str, Any]:
    """How fast D_u comes back, rounded to int8 and not, ready for a record: :func:`fgunlearn.metrics.relearning_check`.

    Args:
        base: the model before unlearning.
        result: the model after it.
        forget: D_u, ``(x, y)`` batches of tensors, held in memory and cut anew into ``options.batch``.
        retrained: a model trained without D_u, the reference; None to go without.
        options: the defaults if None.

    Returns:
        "options"; "retrained_sha256", of the fingerprint of the reference, None without; "as_is" and "rounded", each
        with "accuracy" on D_u before any training, by model, "steps" and "reached" for "unlearned" and "retrained"
        (None without one), "ratio" of these steps (None where undefined), and "target", the loss to be met.

    Raises:
        TypeError, ValueError: as that one.
    """
    options = RelearningOptions() if options is None else options
    forget = in_batches(forget, options.batch)

    def sgd(parameters: Any) -> torch.optim.SGD:
        # Made once for each model that is trained: all see the same dropout, whichever models there are.
        torch.default_generator.manual_seed(options.seed)
        return torch.optim.SGD(parameters, options.lr, momentum=options.momentum)

    with seeded(options.seed):
        found = relearning_check(
            base,
            result,
            forget,
            retrained,
            bits=options.bits,
            tolerance=options.tolerance,
            optimizer=sgd,
            max_steps=options.max_steps,
            check_every=options.check_every,
        )
    return plain(
        {
            "options": {"optimizer": "SGD", **dataclasses.asdict(options)},
            "retrained_sha256": None if retrained is None else fingerprint_hash(fingerprint(retrained)),
            "as_is": _times(found.plain, found.accuracy),
            "rounded": _times(found.quantized, found.accuracy_quantized),
        }
    )


def in_batches(loader: Loader, size: int) -> list[Any]:
    """The samples of ``(x, y)`` batches of tensors in batches of another size."""
    pairs = [x_and_y(batch) for batch in loader]
    if not pairs:
        raise ValueError("forget is empty: there is nothing to relearn")
    x, y = torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])
    return list(zip(x.split(size), y.split(size), strict=True))


def _times(time: RelearnTime, accuracy: dict[str, float]) -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "unlearned": _steps(time.unlearned),
        "retrained": None if time.retrained is None else _steps(time.retrained),
        "ratio": time.ratio,
        "target": time.target,
    }


def _steps(found: Relearning) -> dict[str, Any]:
    return {"steps": found.steps, "reached": found.reached}
