"""The ways to shift data that the study compares: SPD-GAN, SPD-GAN without a part, and noise."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fgunlearn.experiment.data import Batches
from fgunlearn.experiment.degree.models import Models
from fgunlearn.metrics import unlearning_degree
from fgunlearn.spdgan import SPDGAN, Fitting
from fgunlearn.spdgan.samples import UnitRange

PLAIN = "none"
GAN = "SPD-GAN"
NOISE = "noise, same budget"
_HALVINGS = 10
ABLATIONS: dict[str, Callable[[Fitting], Fitting]] = {
    "without critic": lambda f: replace(f, critic_weight=0.0),
    "without shift term": lambda f: replace(f, shift_weight=0.0),
    "without magnitude term": lambda f: replace(f, magnitude_weight=0.0),
}


@dataclass(frozen=True)
class Noise:
    """Gaussian noise with the same root mean square on every sample, in units of the data's range.

    A function of a sample's values and the seed alone: the same for every model, whatever batch the sample is in.

    Attributes:
        rms: before clamping to the range.
        low: of the range, (channels,).
        high: of the range.
        seed: of the noise.
    """

    rms: float
    low: Tensor
    high: Tensor
    seed: int

    def perturb(self, x: Tensor) -> Tensor:
        """Of x's shape and dtype."""
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        low, high = self.low.reshape(shape), self.high.reshape(shape)
        drawn = torch.stack([self._drawn(sample) for sample in x]) if len(x) else x
        return (x + self.rms * (high - low) * drawn).clamp(low, high).to(x.dtype)

    def _drawn(self, sample: Tensor) -> Tensor:
        of_sample = zlib.crc32(sample.contiguous().numpy().tobytes(), self.seed)
        return torch.randn(sample.shape, generator=torch.Generator().manual_seed(of_sample))


def fitted(models: Models, forget: Batches, train: Batches, gan: SPDGAN, looked_at: str = "source") -> SPDGAN:
    """An SPDGAN that looks through the source model, the independent one, or both."""
    seen = {
        "source": [models.source],
        "independent": [models.independent],
        "both": [models.source, models.independent],
    }[looked_at]
    return gan.fit(models.source, forget, train, features=seen)


def noise_of_the_same_size(gan: SPDGAN, forget: Batches, seed: int) -> Noise:
    """Noise that moves the forget data as far, in root mean square, as the generator does: both after clamping."""
    scope = gan.fitted.range
    batches = [x for x, _ in forget]

    def size(way: SPDGAN | Noise) -> float:
        moved = torch.cat([scope.to_unit(way.perturb(x)) - scope.to_unit(x) for x in batches])
        return float(moved.double().square().mean().sqrt())

    wanted = size(gan)
    return _largest(lambda noise: size(noise) <= wanted, scope, seed)


def noise_of_the_same_budget(gan: SPDGAN, models: Models, forget: Batches, seed: int) -> Noise:
    """As large as the accuracy budget of the generator allows, by bisection."""
    budget = gan.fitting.accuracy_budget

    def is_within(noise: Noise) -> bool:
        tried = unlearning_degree(models.source, models.source, forget, noise, resamples=1)
        return budget is None or tried.source_accuracy_unshifted - tried.source_accuracy <= budget

    return _largest(is_within, gan.fitted.range, seed)


def _largest(is_within: Callable[[Noise], bool], scope: UnitRange, seed: int) -> Noise:
    """The largest noise, by bisection of an rms in [0, 1], that is within what is asked."""
    kept, lost = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (kept + lost)
        within = is_within(Noise(middle, scope.low, scope.high, seed))
        kept, lost = (middle, lost) if within else (kept, middle)
    return Noise(kept, scope.low, scope.high, seed)
