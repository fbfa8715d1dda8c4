"""Training the generator: off the source model's distribution, on the manifold of the data, and subtly.

Source of the losses: the critic's and generator's hinge losses are those of Lim and Ye, Geometric GAN, 2017
(arXiv 1705.02894); the shift is the squared MMD of Gretton et al., JMLR 2012.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fgunlearn.metrics.mmd import median_bandwidth, squared_mmd
from fgunlearn.seeding import seeded
from fgunlearn.spdgan.budget import HopelessError
from fgunlearn.spdgan.networks import Critic
from fgunlearn.spdgan.samples import CHUNK
from fgunlearn.spdgan.saving import Saving, Training
from fgunlearn.spdgan.settings import Fitting

Look = Callable[[Tensor], Tensor]
"""From samples in unit range to features of a model."""

Perturb = Callable[[nn.Module, Tensor, float], Tensor]
"""From a generator, samples in unit range and a scale to perturbed samples in unit range."""

_BETAS = (0.5, 0.9)  # of Adam, as usual for hinge losses with spectral normalisation (Miyato et al., ICLR 2018)
_GAIN = 0.01  # of the held-out shift, below which it is said to have levelled off
_ENOUGH = 0.5  # of the largest held-out shift: a generator that has lost more to the critic is not kept
_MOST_HELDOUT = 512  # samples of either set that the held-out shift is taken over


@dataclass
class History:
    """Training, step by step. Shifts are squared MMDs, magnitudes in units of the data's range.

    Attributes:
        shift: of a batch against the reference data, per step.
        magnitude: rms(x~ - x) of a batch, per step.
        generator_loss: per step.
        critic_loss: per step; empty without a critic.
        heldout_step: the steps after which the held-out forget data was looked at.
        heldout_shift: what was found there, with the averaged generator.
        kept_step: the one of them whose generator was kept: the last whose shift was at least half of the largest since
            the critic had its weight.
        stopped: whether training ended because the shift had levelled off.
    """

    shift: list[float] = field(default_factory=list)
    magnitude: list[float] = field(default_factory=list)
    generator_loss: list[float] = field(default_factory=list)
    critic_loss: list[float] = field(default_factory=list)
    heldout_step: list[int] = field(default_factory=list)
    heldout_shift: list[float] = field(default_factory=list)
    kept_step: int = 0
    stopped: bool = False


@dataclass(frozen=True)
class Material:
    """What a generator is trained on, all in unit range and on one device.

    Attributes:
        inputs: sets of samples that the generator perturbs; each gives an equal share of a batch.
        reference: samples that the critic holds for real, and that the shift is measured against, in no order.
        heldout: forget samples that are not among the inputs, if there are enough of them.
    """

    inputs: Sequence[Tensor]
    reference: Tensor
    heldout: Tensor


def fit_generator(
    generator: nn.Module,
    material: Material,
    looks: Sequence[Look],
    perturb: Perturb,
    settings: Fitting,
    width: int,
    seed: int,
    tick: Callable[[int], None],
    saving: Saving | None = None,
) -> tuple[nn.Module, History]:
    """Trains a generator, and returns its moving average at the last look that found the shift in place, in eval mode.

    A critic may press the shift down again once it has its weight: a generator is kept while its held-out shift is at
    least half of the largest since then.

    ``tick`` is called with the number of steps that were taken, 1 but where a checkpoint is gone on from.

    Raises:
        FloatingPointError: a loss or a weight became NaN or infinite.
        ValueError: the reference's features are NaN or infinite before anything was trained.
    """
    device = material.reference.device
    draws = torch.Generator().manual_seed(seed)
    critic = _Critic(material.reference, width, settings, seed) if settings.critic_weight > 0 else None
    shifts = [_Shift(look, material.reference, settings.batch, draws) for look in looks]
    optimizer = torch.optim.Adam(generator.parameters(), settings.lr, betas=_BETAS)
    average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(settings.average))
    history = History()
    pending: dict[str, list[Tensor]] = {"shift": [], "magnitude": [], "generator_loss": [], "critic_loss": []}
    networks: dict[str, nn.Module] = {"generator": generator}
    optimizers: dict[str, torch.optim.Optimizer] = {"generator": optimizer}
    if critic is not None:
        networks["critic"], optimizers["critic"] = critic.network, critic.optimizer
    training = Training(
        networks, optimizers, average, draws, history, pending, kept=average.module.state_dict(), best=-math.inf
    )
    if saving is not None:
        saving.begin(training, settings.steps)
        tick(training.step)
    generator.train()
    for step in range(training.step + 1, settings.steps + 1):
        x = torch.cat([_drawn(part, settings.batch, len(material.inputs), draws) for part in material.inputs])
        shifted = perturb(generator, x, 1.0)
        if critic is not None:
            pending["critic_loss"].append(critic.step(shifted.detach(), draws))
        shift = torch.stack([look(shifted) for look in shifts]).mean()
        magnitude = torch.linalg.vector_norm(shifted - x) / math.sqrt(x.numel())  # its gradient at 0 is 0, not NaN
        terms = [(settings.shift_weight, -shift), (settings.magnitude_weight, F.relu(magnitude - settings.magnitude))]
        if critic is not None:
            terms.append((settings.critic_share(step) * settings.critic_weight, -critic.network(shifted - 0.5).mean()))
        optimizer.zero_grad(set_to_none=True)
        shifted.backward(_pull(shifted, terms), inputs=list(generator.parameters()))
        optimizer.step()
        average.update_parameters(generator)
        loss = torch.stack([weight * term.detach() for weight, term in terms]).sum()
        for name, value in (("shift", shift), ("magnitude", magnitude), ("generator_loss", loss)):
            pending[name].append(value.detach())
        training.step = step
        tick(1)
        if step % settings.check_every == 0 or step == settings.steps:
            _look_at(training, material, shifts, perturb, settings)
            if history.stopped:
                break
        if saving is not None and step < settings.steps:
            saving.after_step(training)
    average.module.load_state_dict(training.kept)
    made: nn.Module = average.module.to(device).eval().requires_grad_(False)
    if not all(bool(p.isfinite().all()) for p in made.parameters()):
        raise _diverged("a weight of the generator", len(history.shift))
    return made, history


def _look_at(
    training: Training, material: Material, shifts: Sequence[_Shift], perturb: Perturb, settings: Fitting
) -> None:
    """A look at the held-out forget data: whether to keep the generator, and whether to stop."""
    history, step, average = training.history, training.step, training.average
    _settle(training.pending, history, step)  # the one wait for the device
    with torch.no_grad():
        asked = material.heldout[:_MOST_HELDOUT].split(CHUNK)
        shown = [perturb(average.module, part, 1.0) for part in asked]
        found = torch.stack([look.heldout(shown) for look in shifts]).mean()
    history.heldout_step.append(step)
    history.heldout_shift.append(float(found))
    if not math.isfinite(history.heldout_shift[-1]):
        raise _diverged("heldout shift", step)
    if "critic" not in training.networks or settings.critic_share(step) == 1.0:
        training.best = max(training.best, history.heldout_shift[-1])
    if history.heldout_shift[-1] >= _ENOUGH * training.best:
        history.kept_step = step
        training.kept = {name: value.clone() for name, value in average.module.state_dict().items()}
    history.stopped = _levelled_off(history.heldout_shift, settings.patience) and step < settings.steps


def _pull(shifted: Tensor, terms: Sequence[tuple[float, Tensor]]) -> Tensor:
    """What is to be propagated back from x~: the terms' gradients, each of its weight's length.

    So the weights say how hard the terms pull, and not in which units each is measured: a critic's output and a squared
    MMD can differ by orders of magnitude, and from one data set to another.
    """
    total = torch.zeros_like(shifted)
    for weight, term in terms:
        (gradient,) = torch.autograd.grad(term, shifted, retain_graph=True)
        length = torch.linalg.vector_norm(gradient)
        total += gradient * torch.where(length > 0, weight / length, length)
    return total


class _Critic:
    """The critic, and one step of its training."""

    def __init__(self, reference: Tensor, width: int, settings: Fitting, seed: int) -> None:
        with seeded(seed + 1):
            self.network = Critic(reference.shape[1:], width).to(reference.device)
        self._reference, self._batch = reference, settings.batch
        self.optimizer = torch.optim.Adam(self.network.parameters(), settings.lr, betas=_BETAS)

    def step(self, shifted: Tensor, draws: torch.Generator) -> Tensor:
        real = _drawn(self._reference, self._batch, 1, draws)
        loss = F.relu(1.0 - self.network(real - 0.5)).mean() + F.relu(1.0 + self.network(shifted - 0.5)).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class _Shift:
    """The squared MMD between a model's features of perturbed samples and of the reference."""

    def __init__(self, look: Look, reference: Tensor, batch: int, draws: torch.Generator) -> None:
        self._look, self._draws = look, draws
        self._rows = 2 * batch
        with torch.no_grad():
            self._reference = torch.cat([look(part) for part in reference.split(CHUNK)]).float()
        if not bool(self._reference.isfinite().all()):
            raise HopelessError("the model's features of the data hold NaN or infinity: there is nothing to shift")
        self._bandwidth = float(median_bandwidth(self._reference))  # a tensor would be waited for at each step

    def __call__(self, shifted: Tensor) -> Tensor:
        return squared_mmd(self._look(shifted), _drawn(self._reference, self._rows, 1, self._draws), self._bandwidth)

    def heldout(self, shifted: Sequence[Tensor]) -> Tensor:
        features = torch.cat([self._look(part) for part in shifted])
        return squared_mmd(features, self._reference[:_MOST_HELDOUT], self._bandwidth)


def _levelled_off(found: Sequence[float], patience: int) -> bool:
    """Whether the last ``patience`` looks, taken together, show no more than the ones before them did.

    One look at a small held-out set is noisy, so means are compared. A shift that is not above 0 yet is not there, and
    does not count as level.
    """
    if len(found) < 2 * patience:
        return False
    before, last = (sum(looks) / patience for looks in (found[-2 * patience : -patience], found[-patience:]))
    return 0.0 < last <= (1.0 + _GAIN) * before


def _drawn(samples: Tensor, batch: int, parts: int, draws: torch.Generator) -> Tensor:
    """One of ``parts`` equal shares of a batch, drawn with replacement; never fewer than one sample."""
    chosen = torch.randint(len(samples), (max(1, batch // parts),), generator=draws)
    return samples[chosen.to(samples.device)]


def _settle(pending: dict[str, list[Tensor]], history: History, step: int) -> None:
    for name, values in pending.items():
        if not values:
            continue
        floats: list[float] = torch.stack(values).tolist()
        values.clear()
        getattr(history, name).extend(floats)
        bad = next((i for i, value in enumerate(floats) if value != value or abs(value) == torch.inf), None)
        if bad is not None:
            raise _diverged(name.replace("_", " "), step - len(floats) + bad + 1)


def _diverged(what: str, step: int) -> FloatingPointError:
    return FloatingPointError(
        f"the SPD-GAN diverged: {what} is NaN or infinite at step {step}; a smaller lr, eps or shift_weight may help"
    )
