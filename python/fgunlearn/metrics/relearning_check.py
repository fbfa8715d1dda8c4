"""Does the forgotten data come back: under a few steps of training, after rounding the weights, and after both?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from fgunlearn.batches import Loader
from fgunlearn.metrics.accuracy import accuracy
from fgunlearn.metrics.quantization import quantized
from fgunlearn.metrics.relearning import RelearnTime, relearn_time


@dataclass(frozen=True)
class RelearningCheck:
    """What :func:`relearning_check` found.

    Attributes:
        plain: relearn times of the models as they are.
        quantized: of their rounded copies, to the same target.
        bits: that weights were rounded to.
        accuracy: on D_u, in [0, 1], of "source", "unlearned" and, where it is given, "retrained".
        accuracy_quantized: of their rounded copies, before any training.
    """

    plain: RelearnTime
    quantized: RelearnTime
    bits: int
    accuracy: dict[str, float]
    accuracy_quantized: dict[str, float]


def relearning_check(
    source: nn.Module,
    unlearned: nn.Module,
    forget_loader: Loader,
    retrained: nn.Module | None = None,
    *,
    bits: int = 8,
    **options: Any,
) -> RelearningCheck:
    """Relearn times before and after rounding all weights, and the accuracies on D_u.

    A model that forgot needs as many steps as a retrained one, rounded or not (ratio 1), and its accuracy on D_u rises
    no more by rounding than the retrained model's. Shallow unlearning shows as fewer steps, or as an accuracy that
    comes back towards the source's.

    The target is that of the source model as it is. Rounded copies are trained in the precision of the model, from
    rounded weights on.

    Args:
        source: the model before unlearning.
        unlearned: the model after it.
        forget_loader: D_u, ``(x, y)`` batches, read many times.
        retrained: the reference; None to go without.
        bits: see :func:`fgunlearn.metrics.quantized`.
        options: keyword arguments of :func:`fgunlearn.metrics.relearn_time`.

    Raises:
        TypeError, ValueError: as these two.
    """
    models = {"source": source, "unlearned": unlearned, **({} if retrained is None else {"retrained": retrained})}
    rounded = {name: quantized(model, bits) for name, model in models.items()}
    return RelearningCheck(
        plain=relearn_time(source, unlearned, forget_loader, retrained, **options),
        quantized=relearn_time(source, rounded["unlearned"], forget_loader, rounded.get("retrained"), **options),
        bits=bits,
        accuracy={name: accuracy(model, forget_loader) for name, model in models.items()},
        accuracy_quantized={name: accuracy(model, forget_loader) for name, model in rounded.items()},
    )
