"""How much of a perturbation the source model bears: what makes it subtle."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fgunlearn.metrics.accuracy import checked_logits
from fgunlearn.spdgan.samples import CHUNK, Sampled, UnitRange

_HALVINGS = 8  # of the interval in which the scale is looked for


class HopelessError(ValueError):
    """What was asked for can't be had: the same call would fail again."""


class Budget:
    """How right the source model is on the forget data, as it is and for any scale of the perturbation.

    Attributes:
        accuracy: share of right answers on the data as it is, in [0, 1].

    Raises:
        ValueError: the model does not return logits.
    """

    def __init__(self, model: nn.Module, forget: Sampled, scope: UnitRange) -> None:
        self._model, self._forget, self._scope = model, forget, scope
        self.accuracy = self._right(None, 0.0)

    def largest_scale(self, perturb: Callable[[Tensor, float], Tensor], budget: float | None) -> tuple[float, float]:
        """The largest scale found, by bisection of (0, 1], that keeps to the budget, and the accuracy there.

        Raises:
            ValueError: not even the smallest that was tried does.
        """
        accuracy = self._right(perturb, 1.0)
        if budget is None or self.accuracy - accuracy <= budget:
            return 1.0, accuracy
        kept, accuracy_kept, lost = 0.0, self.accuracy, 1.0
        for _ in range(_HALVINGS):
            middle = 0.5 * (kept + lost)
            accuracy = self._right(perturb, middle)
            if self.accuracy - accuracy <= budget:
                kept, accuracy_kept = middle, accuracy
            else:
                lost = middle
        if kept == 0.0:
            raise HopelessError(
                f"accuracy_budget={budget} can't be kept: the source model is right on {self.accuracy:.2%} of the "
                f"forget data, {accuracy:.2%} after {lost:.2g} times the perturbation; do lo and hi fit the data?"
            )
        return kept, accuracy_kept

    @torch.no_grad()
    def _right(self, perturb: Callable[[Tensor, float], Tensor] | None, scale: float) -> float:
        right = 0
        for x, y in zip(self._forget.x.split(CHUNK), self._forget.y.split(CHUNK), strict=True):
            x = x.to(self._scope.low.device, copy=True)  # the model may change its input in place
            if perturb is not None:
                x = self._scope.from_unit(perturb(self._scope.to_unit(x), scale), x.dtype)
            right += int((checked_logits(self._model(x), y).argmax(1).cpu() == y).sum())
        return right / len(self._forget.y)
