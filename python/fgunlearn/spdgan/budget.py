"""How much of a perturbation the source model bears: what makes it subtle."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fgunlearn.metrics.accuracy import checked_logits
from fgunlearn.spdgan.samples import CHUNK, Sampled, UnitRange

_HALVINGS = 8  # of the interval in which the scale is looked for


class Budget:
    """How right the source model is on the forget data, for any scale of the perturbation."""

    def __init__(
        self, model: nn.Module, forget: Sampled, scope: UnitRange, perturb: Callable[[Tensor, float], Tensor]
    ) -> None:
        self._model, self._forget, self._scope, self._perturb = model, forget, scope, perturb
        self._known: dict[float, float] = {}

    @torch.no_grad()
    def accuracy(self, scale: float) -> float:
        """Share of right answers, in [0, 1]; scale 0 is the data as it is."""
        if scale not in self._known:
            right = 0
            for x, y in zip(self._forget.x.split(CHUNK), self._forget.y.split(CHUNK), strict=True):
                x = x.to(self._scope.low.device)
                if scale > 0:
                    x = self._scope.from_unit(self._perturb(self._scope.to_unit(x), scale), x.dtype)
                right += int((checked_logits(self._model(x), y).argmax(1).cpu() == y).sum())
            self._known[scale] = right / len(self._forget.y)
        return self._known[scale]

    def largest_scale(self, budget: float | None) -> float:
        """The largest scale, by bisection of (0, 1], that keeps to the budget; 1 without one."""
        if budget is None or self._keeps(1.0, budget):
            return 1.0
        kept, lost = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = 0.5 * (kept + lost)
            kept, lost = (middle, lost) if self._keeps(middle, budget) else (kept, middle)
        return kept or lost

    def _keeps(self, scale: float, budget: float) -> bool:
        return self.accuracy(0.0) - self.accuracy(scale) <= budget
