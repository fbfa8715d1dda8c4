"""The SPD-GAN as its users meet it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fgunlearn.batches import Loader, device_of, evaluation_mode, x_and_y
from fgunlearn.features import InputOf
from fgunlearn.ops.spd_perturb import spd_perturb
from fgunlearn.progress import bar
from fgunlearn.resuming import Checkpoint
from fgunlearn.seeding import seeded
from fgunlearn.spdgan import networks
from fgunlearn.spdgan.budget import Budget
from fgunlearn.spdgan.fit import Material, fit_generator
from fgunlearn.spdgan.fitted import Fitted, damaged, read, write
from fgunlearn.spdgan.samples import CHUNK, Sampled, UnitRange, check_bounds, sampled, unit_range
from fgunlearn.spdgan.saving import Saving
from fgunlearn.spdgan.settings import Fitting, check_count, check_number

Norm = Literal["none", "l2", "linf"]
Outside = Literal["clamp", "error"]


class SPDGAN:
    """Shifts samples slightly off the distribution that a model was trained on, for :func:`unlearning_degree`.

    A generator G gives x~ = clamp(x + delta), delta = eps * tanh(G(x)), trained so that the source model's penultimate
    features of x~ leave those of its training data (squared MMD), while a critic keeps x~ among the real samples, and a
    magnitude term and eps keep it subtle: L_G = -D(x~) - lambda_shift * MMD^2 + lambda_mag * max(0, rms(delta) - c),
    the weights relative to each other, see :class:`fgunlearn.spdgan.Fitting`.

    Everything is measured in units of the data's range, channel by channel: eps 0.1 moves a value by at most a tenth
    of the way from the smallest to the largest. Samples may be images (channels, h, w) of 1 to 4 channels from 8x8
    up, series (channels, length) from 8 up, or vectors (features,).

    Args:
        eps: largest change of a value, in units of the range, > 0.
        norm: "none", or "l2" or "linf" to keep each sample's delta in the ball of that norm.
        radius: of the ball, in units of the range, > 0.
        lo: the smallest value that samples may have; None for the smallest seen in each channel.
        hi: the largest.
        outside: what to do with samples that leave [lo, hi] before they are perturbed: "clamp" brings them back,
            "error" refuses them, at the price of a wait for the device.
        width: channels of the generator at full size, a multiple of 4.
        blocks: residual blocks.
        fitting: how it is trained.
        seed: of the networks' weights, the draws and the held-out part.

    Raises:
        TypeError: a number that is none.
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        *,
        eps: float = 0.15,
        norm: Norm | None = "none",
        radius: float = 1.0,
        lo: float | None = None,
        hi: float | None = None,
        outside: Outside = "clamp",
        width: int = 16,
        blocks: int = 2,
        fitting: Fitting | None = None,
        seed: int = 0,
    ) -> None:
        for name, value in (("eps", eps), ("radius", radius)):
            check_number(name, value)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be finite and > 0, got {value}")
        for name, count, least in (("width", width, 4), ("blocks", blocks, 0)):
            check_count(name, count, least)
        if norm not in (None, "none", "l2", "linf"):
            raise ValueError(f"norm must be 'none', 'l2' or 'linf', got {norm!r}")
        if outside not in ("clamp", "error"):
            raise ValueError(f"outside must be 'clamp' or 'error', got {outside!r}")
        check_bounds(lo, hi)
        if width % 4:
            raise ValueError(f"width must be a multiple of 4, got {width}")
        if not isinstance(seed, int):
            raise TypeError(f"seed must be an int, got {seed!r}")
        self.eps, self.norm, self.radius = float(eps), norm or "none", float(radius)
        self.lo, self.hi, self.outside = lo, hi, outside
        self.width, self.blocks, self.seed = width, blocks, seed
        self.fitting = fitting or Fitting()
        self._fitted: Fitted | None = None

    @property
    def fitted(self) -> Fitted:
        """What the last fit left.

        Raises:
            ValueError: it was not fitted yet.
        """
        if self._fitted is None:
            raise ValueError("this SPDGAN is not fitted yet: call fit(model, loader) or SPDGAN.load(path)")
        return self._fitted

    def fit(
        self,
        model: nn.Module,
        loader: Loader,
        train_loader: Loader | None = None,
        *,
        features: Sequence[nn.Module] | None = None,
        layer: str | None = None,
        progress: bool = False,
        checkpoint: Checkpoint | None = None,
    ) -> SPDGAN:
        """Trains the generator. After an error or Ctrl-C the SPDGAN is as it was before.

        With ``train_loader``, half of what the generator learns on is D_u and half other training data, so that it does
        to the forget data what it does to any: one trained on D_u alone hits D_u harder, and hides what is remembered.
        At most 4,096 samples of each loader, uniformly drawn, are kept in memory.

        The model is looked at in eval mode and not changed. For a given seed and number of threads the result is the
        same on the CPU, and on CUDA as far as the kernels are deterministic (``torch.use_deterministic_algorithms``).
        Autocast around this call has no effect on it.

        Args:
            model: the source model M_s.
            loader: D_u, ``(x, y)`` batches; read once.
            train_loader: D_r, or all of D_train; D_u stands for it when None. Where it holds D_u too, what is held out
                of D_u is not learned from.
            features: models whose features are to be shifted, for example others trained alike; their MMDs are
                averaged. The source model alone when None.
            layer: the module whose input is called features; the last ``nn.Linear`` when None.
            progress: show a bar.
            checkpoint: where to keep the state of the training every so many steps, and to go on from if it is there,
                see :class:`fgunlearn.Checkpoint`; None for nowhere.

        Returns:
            Itself.

        Raises:
            TypeError: batches that are not ``(x, y)`` with a floating-point x; ``features`` that is one model.
            ValueError: fewer than 2 forget samples, samples of other shapes than the networks take, no such layer, a
                model that does not return logits, an accuracy budget that can't be kept, a checkpoint that is damaged
                or of another call.
            FloatingPointError: training diverged.
            OSError: a checkpoint that can't be read or written.
        """
        start = time.perf_counter()
        if isinstance(features, nn.Module):  # some can be iterated over, and would be taken for a list of their layers
            raise TypeError(f"features must be a sequence of models, got one {type(features).__name__}")
        looked_at = (model,) if features is None else tuple(features)
        saving = None if checkpoint is None else Saving(checkpoint, [loader, train_loader])
        with contextlib.nullcontext() if saving is None else saving.checking():
            forget = sampled(loader, "loader", self.seed)
            train = None if train_loader is None else sampled(train_loader, "train_loader", self.seed + 1)
            shape = _checked(forget, train, model, looked_at)
            if saving is not None:
                options = {**self._configuration(), "fitting": self.fitting}
                saving.agree(model, looked_at, layer, forget, train, options)
        device = device_of(model)
        scope = self._range_of(forget, train).to(device)
        with seeded(self.seed):
            generator = networks.generator(shape, self.width, self.blocks).to(device)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_own_precision(device))
            stack.enter_context(torch.enable_grad())
            for looked in (model, *looked_at):
                stack.enter_context(evaluation_mode(looked))
            if saving is not None:
                stack.enter_context(saving.until_done())
            display = stack.enter_context(bar(progress))
            ticker = display.add_task("SPD-GAN", total=self.fitting.steps)
            budget = Budget(model, forget, scope)
            made, history = fit_generator(
                generator,
                self._material(forget, train, scope),
                [_look(InputOf(looked, layer), scope, forget.x.dtype) for looked in looked_at],
                self._perturbed,
                self.fitting,
                self.width,
                self.seed,
                lambda steps: display.advance(ticker, steps),
                saving,
            )
            scale, accuracy = budget.largest_scale(
                lambda unit, scale: self._perturbed(made, unit, scale), self.fitting.accuracy_budget
            )
            self._fitted = Fitted(
                generator=made,
                range=scope,
                sample_shape=shape,
                scale=scale,
                accuracy=budget.accuracy,
                shifted_accuracy=accuracy,
                seconds=time.perf_counter() - start + (0.0 if saving is None else saving.seconds),
                history=history,
            )
        return self

    def perturb(self, x: Tensor) -> Tensor:
        """A batch of samples, shifted: of x's shape and dtype, on x's device, without a gradient.

        Raises:
            TypeError: x is not a floating-point tensor.
            ValueError: not fitted; samples of another shape than it was fitted to; with ``outside="error"``, samples
                that leave [lo, hi].
        """
        fitted = self.fitted
        if not isinstance(x, Tensor) or not x.is_floating_point():
            found = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"x must be a floating-point tensor, got {found}")
        if tuple(x.shape[1:]) != fitted.sample_shape:
            raise ValueError(
                f"this SPDGAN was fitted to samples of shape {fitted.sample_shape}, got a batch of "
                f"shape {tuple(x.shape)}"
            )
        device = fitted.range.low.device
        with torch.no_grad(), _own_precision(device):
            parts = []
            for part in x.split(CHUNK):
                unit = self._in_range(part, fitted.range)
                shifted = self._perturbed(fitted.generator, unit, fitted.scale)
                parts.append(fitted.range.from_unit(shifted, x.dtype).to(x.device))
            return torch.cat(parts)

    def perturbed(self, loader: Loader) -> Perturbed:
        """The ``(x, y)`` batches of a loader with every x shifted: an iterable to be read again, one batch at a time.

        No more than a batch is held, so the data may be larger than memory.
        """
        return Perturbed(self, loader)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the generator, the data's range and the configuration to a safetensors file, replacing it at once.

        Raises:
            ValueError: not fitted.
            OSError: the file can't be written; one that was there is as it was.
        """
        configuration = {**self._configuration(), "fitting": dataclasses.asdict(self.fitting)}
        write(path, configuration, self.fitted)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> SPDGAN:
        """Reads what :meth:`save` wrote; ready to perturb.

        Args:
            path: of the file.
            device: where the generator is to work.

        Raises:
            ValueError: the file is not one of an SPDGAN, or damaged.
            OSError: it can't be read.
        """
        configuration, fitted = read(path, torch.device(device))
        try:
            gan = cls(**{**configuration, "fitting": Fitting(**configuration["fitting"])})
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path, error) from error
        gan._fitted = fitted
        return gan

    def _configuration(self) -> dict[str, Any]:
        names = ("eps", "norm", "radius", "lo", "hi", "outside", "width", "blocks", "seed")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self._configuration().items())
        state = "not fitted" if self._fitted is None else f"fitted to {self._fitted.sample_shape}"
        return f"SPDGAN({given}; {state})"

    def _perturbed(self, generator: nn.Module, unit: Tensor, scale: float) -> Tensor:
        """Samples in unit range to perturbed ones; differentiable in the generator's weights."""
        g = generator(unit - 0.5)
        return spd_perturb(unit, g, eps=scale * self.eps, norm=self.norm, radius=scale * self.radius, lo=0.0, hi=1.0)

    def _range_of(self, *sets: Sampled | None) -> UnitRange:
        seen = [part for part in sets if part is not None]
        low = torch.stack([part.low for part in seen]).amin(0)
        high = torch.stack([part.high for part in seen]).amax(0)
        return unit_range(low, high, self.lo, self.hi)

    def _material(self, forget: Sampled, train: Sampled | None, scope: UnitRange) -> Material:
        samples = self._in_range(forget.x, scope, "loader: x")
        order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(self.seed))
        count = int(self.fitting.heldout_share * len(order))
        if count < 2 or len(order) - count < 2:  # too few to part: the look is at what it learns from
            inputs = heldout = samples[order.to(samples.device)]
        else:
            heldout, inputs = (samples[part.to(samples.device)] for part in (order[:count], order[count:]))
        if train is None:
            return Material(inputs=(inputs,), reference=inputs, heldout=heldout)
        # In no order: a loader sorted by class must not put one class first.
        order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(self.seed))
        rest = self._in_range(train.x[order], scope, "train_loader: x")
        return Material(inputs=(inputs, _others(rest, heldout)), reference=rest, heldout=heldout)

    def _in_range(self, x: Tensor, scope: UnitRange, argument: str = "x") -> Tensor:
        """In units of the range: clamped to it, so that clamping alone is no shift, or refused."""
        unit = scope.to_unit(x.to(scope.low.device))
        if self.outside == "error":
            _refuse_outside(unit, argument)
        return unit.clamp(0.0, 1.0)


class Perturbed(Iterable[tuple[Tensor, Tensor]]):
    """The batches of a loader, their x shifted; see :meth:`SPDGAN.perturbed`."""

    def __init__(self, gan: SPDGAN, loader: Loader) -> None:
        self._gan, self._loader = gan, loader

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self._loader:
            x, y = x_and_y(batch)
            yield self._gan.perturb(x), y


def _others(samples: Tensor, heldout: Tensor) -> Tensor:
    """Those that are not held out: D_train has D_u's samples in it. All of them where fewer than two would stay."""
    known = {sample.numpy().tobytes() for sample in heldout.cpu()}
    left = [i for i, sample in enumerate(samples.cpu()) if sample.numpy().tobytes() not in known]
    return samples if len(left) < 2 else samples[torch.tensor(left, device=samples.device)]


def _look(look: InputOf, scope: UnitRange, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda unit: look(scope.from_unit(unit, dtype)).float()


def _checked(
    forget: Sampled, train: Sampled | None, model: nn.Module, looked_at: Sequence[nn.Module]
) -> tuple[int, ...]:
    """The shape of a sample.

    Raises:
        ValueError: what does not fit together.
    """
    if len(forget.x) < 2:
        raise ValueError(f"loader must hold 2 samples or more to forget, got {len(forget.x)}")
    shape = tuple(forget.x.shape[1:])
    networks.check_shape(shape)
    if train is not None and tuple(train.x.shape[1:]) != shape:
        raise ValueError(f"train_loader's samples must have loader's shape, {shape}, got {tuple(train.x.shape[1:])}")
    if train is not None and len(train.x) < 2:
        raise ValueError(f"train_loader must hold 2 samples or more, got {len(train.x)}")
    if not looked_at:
        raise ValueError("features must hold at least one model")
    for looked in looked_at:
        if device_of(looked) != device_of(model):
            raise ValueError(f"features must be on the model's device, {device_of(model)}, got {device_of(looked)}")
    return shape


def _own_precision(device: torch.device) -> contextlib.AbstractContextManager[None]:
    return torch.autocast(device.type, enabled=False)


def _refuse_outside(unit: Tensor, argument: str) -> None:
    if unit.numel() == 0:
        return
    smallest, largest = (float(value) for value in unit.aminmax())
    if not (smallest >= 0.0 and largest <= 1.0):
        raise ValueError(
            f"{argument} leaves [lo, hi]: in units of that range it reaches from {smallest:.6g} to {largest:.6g}; "
            'outside="clamp" brings such samples back'
        )
