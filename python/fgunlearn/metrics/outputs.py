"""What a model says about samples, looked at once: what accuracies and membership attacks are made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from fgunlearn.batches import Loader
from fgunlearn.metrics.accuracy import check_labels, logits_and_labels


@dataclass(frozen=True, eq=False)
class Outputs:
    """Logits of samples and their labels; what is derived from them is float64 of shape (samples,), computed once.

    Nothing is rounded off where the model is sure: a memorised sample's loss of 1e-12 is not 0, where it would
    look like any other's.

    Args:
        logits: float (samples, classes), at least one sample and two classes.
        labels: class numbers (samples,), any integer dtype; kept as int64 on the logits' device.

    Raises:
        ValueError: other shapes, logits that are NaN or infinite, labels that are not class numbers.
    """

    logits: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        logits, labels = self.logits, self.labels
        if logits.dim() != 2 or len(logits) == 0 or logits.shape[1] < 2 or not logits.is_floating_point():
            raise ValueError(
                "logits must be float of shape (samples, classes), samples >= 1, classes >= 2, got "
                f"{logits.dtype} of shape {tuple(logits.shape)}"
            )
        if labels.shape != logits.shape[:1] or labels.is_floating_point() or labels.is_complex():
            raise ValueError(
                f"labels must be integers of shape ({len(logits)},), got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        bad = int((~logits.isfinite()).sum())
        if bad:
            raise ValueError(f"logits hold {bad} values that are NaN or infinite: the model has diverged")
        check_labels(labels, logits.shape[1], "labels")
        object.__setattr__(self, "logits", logits.detach())
        object.__setattr__(self, "labels", labels.to(logits.device, torch.int64))

    @classmethod
    def of(cls, model: nn.Module, loader: Loader, argument: str = "loader") -> Outputs:
        """One pass over ``(x, y)`` batches in eval mode, without gradients.

        Raises:
            TypeError, ValueError: as :class:`Outputs`; an empty loader, batches that are not ``(x, y)``, outputs that
                are not logits. The message begins with ``argument``.
        """
        try:
            return cls(*logits_and_labels(model, loader))
        except ValueError as error:
            raise ValueError(f"{argument}: {error}") from error

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def accuracy(self) -> float:
        """Share of samples whose largest logit is their label's, in [0, 1]."""
        return float((self.logits.argmax(1) == self.labels).double().mean())

    @cached_property
    def log_odds(self) -> Tensor:
        """log(p_y / (1 - p_y)), the logit-scaled confidence of Carlini et al. (S&P 2022), straight from the logits."""
        own = self.labels[:, None]
        logits = self.logits.double()
        others = logits.scatter(1, own, -torch.inf).logsumexp(1)
        return logits.gather(1, own)[:, 0] - others

    @cached_property
    def losses(self) -> Tensor:
        """Cross entropy -log p_y in nats, in [0, inf)."""
        return torch.logaddexp(torch.zeros_like(self.log_odds), -self.log_odds)

    @cached_property
    def confidence(self) -> Tensor:
        """p_y, the probability of the label, in [0, 1]."""
        return self.log_odds.sigmoid()

    @cached_property
    def entropy(self) -> Tensor:
        """-sum_i p_i log p_i in nats, in [0, log classes]: it does not look at the label."""
        log_p = self.logits.double().log_softmax(1)
        return -(log_p.exp() * log_p).sum(1)

    @cached_property
    def modified_entropy(self) -> Tensor:
        """-(1 - p_y) log p_y - sum_{i != y} p_i log(1 - p_i), in [0, inf).

        The prediction entropy with the label put in (Song & Mittal, USENIX Security 2021): 0 for a sample that is
        surely right, without bound for one that is surely wrong, where the plain entropy is 0 as well.
        """
        logits = self.logits.double()
        p = logits.softmax(1)
        # 1 - p loses its digits where p is near 1, which is the largest one alone: its rest is summed instead.
        top = logits.argmax(1, keepdim=True)
        rest = logits.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True) - logits.logsumexp(1, keepdim=True)
        log_rest = torch.log1p(-p.scatter(1, top, 0.0)).scatter(1, top, rest)
        wrong = (p * log_rest).scatter(1, self.labels[:, None], 0.0).sum(1)
        return (-self.log_odds).sigmoid() * self.losses - wrong
