"""How alike two models are: in what they say, in their parameters, in their features."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fgunlearn.batches import Loader
from fgunlearn.features import features_of
from fgunlearn.metrics.accuracy import logits_and_labels


@dataclass(frozen=True)
class Similarity:
    """Attributes are defined in :func:`similarity`."""

    js_divergence: float
    agreement: float
    relative_l2: float
    cosine: float
    cka: float


def similarity(a: nn.Module, b: nn.Module, loader: Loader, *, layer: str | None = None) -> Similarity:
    """Compares two models of one architecture on the data of ``loader``.

    - js_divergence: mean over samples of the Jensen-Shannon divergence of the two predictions, natural logarithm, in
      [0, ln 2]; 0 for equal predictions. A class of logit -inf has probability 0.
    - agreement: share of samples with the same predicted class, in [0, 1].
    - relative_l2: norm of the parameters' difference over the norm of b's, in [0, inf); infinite, or NaN, where b's
      parameters are all 0.
    - cosine: of the two parameter vectors, in [-1, 1]; 0 where one of them is all 0.
    - cka: linear centred kernel alignment of the penultimate features (Kornblith et al., ICML 2019), in [0, 1];
      NaN where one model's features are the same for all samples.

    Two retrained models of different seeds don't score 0, 1, 0, 1, 1: their values are what indistinguishable means,
    and parameters of independent trainings are far apart.

    Args:
        a: for example the unlearned model.
        b: for example the retrained one.
        loader: ``(x, y)`` batches in a fixed order.
        layer: name of the module whose input is compared; the last ``nn.Linear`` when None.

    Raises:
        TypeError: batches that are not ``(x, y)``.
        ValueError: the models' parameters differ in names or shapes, or there are none; no such layer, or none to be
            found; an empty loader; outputs that are not logits of one shape, or hold NaN.
    """
    va, vb = _parameter_vectors(a, b)
    vb = vb.to(va.device)
    la, _ = logits_and_labels(a, loader)
    lb = logits_and_labels(b, loader)[0].to(la.device)  # the models may be on different devices
    if la.shape != lb.shape:
        raise ValueError(f"the models' outputs differ in shape: {tuple(la.shape)} and {tuple(lb.shape)}")
    for argument, logits in (("a", la), ("b", lb)):
        bad = int(logits.isnan().sum())
        if bad:
            raise ValueError(f"the logits of {argument} hold {bad} NaN: the model has diverged")
    fa, fb = (features_of(model, loader, layer).double() for model in (a, b))
    return Similarity(
        js_divergence=js_divergence(la.double(), lb.double()),
        agreement=float((la.argmax(1) == lb.argmax(1)).double().mean()),
        relative_l2=float((va - vb).norm() / vb.norm()),
        cosine=float(F.cosine_similarity(va, vb, dim=0).clamp(-1.0, 1.0)),
        cka=_linear_cka(fa, fb.to(fa.device)),
    )


def js_divergence(a: Tensor, b: Tensor) -> float:
    """Mean Jensen-Shannon divergence of two predictions, given as logits (samples, classes), in [0, ln 2].

    NaN where a logit is NaN, or infinite but for -inf, which is a probability of 0.
    """
    log_p, log_q = a.log_softmax(1), b.log_softmax(1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2.0)
    to_m = torch.zeros(len(a), dtype=log_m.dtype, device=log_m.device)
    for log in (log_p, log_q):
        to_m = to_m + (log.exp() * (log - log_m)).where(log != -torch.inf, 0.0).sum(1)
    return float((0.5 * to_m).mean().clamp(0.0, math.log(2.0)))  # a clamp keeps a NaN, as min and max do not


def _parameter_vectors(a: nn.Module, b: nn.Module) -> tuple[Tensor, Tensor]:
    of_a, of_b = dict(a.named_parameters()), dict(b.named_parameters())
    if not of_a:
        raise ValueError("a has no parameters to compare")
    for name in {**of_a, **of_b}:
        shapes = [tuple(p[name].shape) if name in p else None for p in (of_a, of_b)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"parameter {name!r} has shape {shapes[0]} in one model and {shapes[1]} in the other")
    return (
        torch.cat([of_a[name].detach().double().reshape(-1) for name in of_a]),
        torch.cat([of_b[name].detach().double().reshape(-1) for name in of_a]),
    )


def _linear_cka(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    scale = (x.T @ x).norm() * (y.T @ y).norm()
    return float(((y.T @ x).norm() ** 2 / scale).clamp_max(1.0)) if scale > 0 else math.nan
