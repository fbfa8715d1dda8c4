"""Shadow models: the same training over and over, each time on another part of the samples, side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from fgunlearn.arguments import check_choice, check_count, check_number, check_seed
from fgunlearn.batches import device_of, evaluation_mode
from fgunlearn.metrics.accuracy import check_labels, checked_logits
from fgunlearn.metrics.outputs import Outputs
from fgunlearn.progress import track
from fgunlearn.seeding import derived_seed, seeded

EVALUATION_BATCH = 256
"""Samples that a trained model looks at at a time."""

# Positions of seeds derived from the one that is given: a shadow has its number's, the others are past all shadows.
_DROPOUT, _HALVES = 2**32, 2**32 + 1
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, kw_only=True)
class ShadowTraining:
    """SGD whose learning rate rises linearly and falls linearly to 0. Make it the training of the model attacked.

    Args:
        epochs: passes over a shadow's samples.
        batch: samples per step.
        lr: the largest learning rate.
        momentum: of SGD, with Nesterov where above 0.
        weight_decay: of SGD.
        warmup: share of the steps in which the learning rate rises, in [0, 1).

    Raises:
        TypeError: epochs or batch that are no int, another that is no number.
        ValueError: a number out of its range.
    """

    epochs: int = 30
    batch: int = 32
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.3

    def __post_init__(self) -> None:
        for argument in ("epochs", "batch"):
            check_count(getattr(self, argument), argument)
        check_number(self.lr, "lr", low=0.0, above=True)
        check_number(self.weight_decay, "weight_decay", low=0.0)
        for argument in ("momentum", "warmup"):
            value = getattr(self, argument)
            check_number(value, argument)
            if not 0.0 <= value < 1.0:
                raise ValueError(f"{argument} must be in [0, 1), got {value}")

    def learning_rate(self, progress: float) -> float:
        """The learning rate after the share ``progress`` of the steps, in [0, 1]."""
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        return self.lr * (1.0 - progress) / (1.0 - self.warmup)


def half_memberships(shadows: int, samples: int, seed: int = 0) -> Tensor:
    """bool (shadows, samples): every sample in exactly half of the shadow models, another half for each.

    Raises:
        TypeError: a number that is no int.
        ValueError: shadows that are odd or below 2, samples below 1, a seed of more than 64 bits.
    """
    check_count(shadows, "shadows", 2)
    if shadows % 2:
        raise ValueError(f"shadows must be even, got {shadows}")
    check_count(samples, "samples")
    check_seed(seed)
    generator = torch.Generator().manual_seed(derived_seed(seed, _HALVES))
    order = torch.rand(shadows, samples, generator=generator).argsort(0)
    return order < shadows // 2


def train_shadows(
    new_model: Callable[[], nn.Module],
    x: Tensor,
    y: Tensor,
    memberships: Tensor,
    training: ShadowTraining | None = None,
    *,
    seed: int = 0,
    batched: bool | None = None,
    progress: bool = False,
) -> list[nn.Module]:
    """Trains one model per row of ``memberships`` on the samples it names, with cross entropy.

    All at once, the parameters are stacked and every step is one forward and backward pass over (shadows, batch)
    samples; batch norm keeps each shadow's own statistics. Both ways see the same samples in the same order and give
    the same models but for rounding, and but for dropout, whose draws differ.

    A shadow's samples come in one random order after the other, cut into whole batches, of the smallest shadow's number
    of samples where that is below ``training.batch``. All shadows make as many steps: ``epochs`` passes over their mean
    number of samples, so a smaller one sees its samples a little more often. Shadows of very different sizes are better
    trained in calls of their own.

    All is checked before the first step; new_model's first model looks at one sample for that, in eval mode.

    Args:
        new_model: makes an untrained model, another one of the same architecture at each call; called with torch's seed
            set, so that shadow i depends on (seed, i).
        x: samples first, (samples, ...), of the dtype that the model takes.
        y: class numbers, any integer dtype, (samples,).
        memberships: bool (shadows, samples), at least one sample to each shadow.
        training: the recipe; ``ShadowTraining()`` when None.
        seed: of initial weights and orders; torch's own stays as it was.
        batched: all at once, or one after the other. None: at once, except for convolutions on a CPU (which torch runs
            slower in groups than one by one) and for models that ``vmap`` can't run (such as recurrent layers).
        progress: show a bar on a terminal.

    Returns:
        The trained models, in eval mode, on the device that new_model puts them on.

    Raises:
        TypeError: a new_model that is no function or returns no module, x, y or memberships that are no tensors,
            memberships that are not bool, a training that is no ShadowTraining, a seed that is no int.
        ValueError: other shapes, a shadow without a sample, labels that are no class numbers of the model, models that
            have nothing to train, share what is trained or differ in their parameters, outputs that are not logits,
            training that diverges.
        RuntimeError: ``batched=True`` for a model that vmap can't run.
    """
    if training is None:
        training = ShadowTraining()
    _check(x, y, memberships)
    check_training(new_model, training, seed, batched)
    models = _made(new_model, len(memberships), seed)
    device = device_of(models[0])
    with torch.no_grad(), evaluation_mode(models[0]), seeded(seed):
        classes = checked_logits(models[0](x[:1].to(device)), y[:1]).shape[1]
    check_labels(y[memberships.any(0).to(y.device)], classes, "y")
    x, y, memberships = x.to(device), y.to(device, torch.int64), memberships.cpu()
    seeds = [derived_seed(seed, shadow) for shadow in range(len(models))]
    batch = min(training.batch, int(memberships.sum(1).min()))
    orders = [_order(row, batch, one) for row, one in zip(memberships, seeds, strict=True)]
    steps = max(1, round(training.epochs * float(memberships.sum()) / len(models) / batch))
    if batched is None:
        batched = _together_is_faster(models[0], device) and _vmap_runs(models, x[:2])
    if batched:
        with seeded(derived_seed(seed, _DROPOUT)):
            _train_together(models, x, y, orders, steps, training, progress)
    else:
        for shadow, model in enumerate(track(models, "shadow models", progress)):
            with seeded(seeds[shadow]):
                _train_one(model, x, y, orders[shadow], steps, training)
            _check_converged(shadow, model, training)  # at once, and not after the others' hours
    for shadow, model in enumerate(models):
        _check_converged(shadow, model.eval(), training)
    return models


def log_odds_of(models: Sequence[nn.Module], x: Tensor, y: Tensor) -> Tensor:
    """What every model says of every sample: log(p_y / (1 - p_y)), float64 (models, samples) on the CPU.

    Raises:
        ValueError: no model, no sample, outputs that are not finite logits.
    """
    if not models:
        raise ValueError("models must hold one model or more")
    batches = list(zip(x.split(EVALUATION_BATCH), y.split(EVALUATION_BATCH), strict=True))
    return torch.stack([Outputs.of(model, batches, "x").log_odds.cpu() for model in models])


def _order(members: Tensor, batch: int, seed: int) -> Iterator[Tensor]:
    """Batches of the samples' numbers, int64 (batch,), without an end: one random order after the other."""
    chosen = members.nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.int64)
    while True:
        if len(waiting) < batch:
            waiting = torch.cat([waiting, chosen[torch.randperm(len(chosen), generator=generator)]])
        yield waiting[:batch]
        waiting = waiting[batch:]


def _sgd(parameters: Sequence[Tensor], training: ShadowTraining) -> torch.optim.SGD:
    return torch.optim.SGD(
        parameters,
        lr=training.lr,
        momentum=training.momentum,
        nesterov=training.momentum > 0,
        weight_decay=training.weight_decay,
    )


def _train_one(
    model: nn.Module, x: Tensor, y: Tensor, order: Iterator[Tensor], steps: int, training: ShadowTraining
) -> None:
    optimizer = _sgd([p for p in model.parameters() if p.requires_grad], training)
    model.train()
    for step in range(steps):
        chosen = next(order).to(x.device)
        optimizer.param_groups[0]["lr"] = training.learning_rate((step + 0.5) / steps)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(checked_logits(model(x[chosen]), y[chosen]), y[chosen]).backward()
        optimizer.step()


def _train_together(
    models: list[nn.Module],
    x: Tensor,
    y: Tensor,
    orders: list[Iterator[Tensor]],
    steps: int,
    training: ShadowTraining,
    progress: bool,
) -> None:
    stacked, buffers = stack_module_state(models)
    forward = _side_by_side(models[0])
    optimizer = _sgd([p for p in stacked.values() if p.requires_grad], training)
    for step in track(range(steps), "steps of all shadow models", progress):
        chosen = torch.stack([next(order) for order in orders]).to(x.device)
        optimizer.param_groups[0]["lr"] = training.learning_rate((step + 0.5) / steps)
        optimizer.zero_grad(set_to_none=True)
        labels = y[chosen].flatten()
        logits = checked_logits(forward(stacked, buffers, x[chosen]).flatten(0, 1), labels)
        # No shadow's loss depends on another's parameters: the gradient of the sum is each one's own.
        (F.cross_entropy(logits, labels, reduction="sum") / chosen.shape[1]).backward()
        optimizer.step()
    with torch.no_grad():
        for shadow, model in enumerate(models):
            for name, value in (*model.named_parameters(), *model.named_buffers()):
                value.copy_((stacked if name in stacked else buffers)[name][shadow])


def _side_by_side(model: nn.Module) -> Callable[[dict[str, Tensor], dict[str, Tensor], Tensor], Tensor]:
    """The forward pass of all shadows in train mode; their buffers are updated in place."""
    skeleton = copy.deepcopy(model).train()

    def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        out: Tensor = functional_call(skeleton, (parameters, buffers), (x,))
        return out

    together: Callable[[dict[str, Tensor], dict[str, Tensor], Tensor], Tensor] = vmap(one, randomness="different")
    return together


def _together_is_faster(model: nn.Module, device: torch.device) -> bool:
    return device.type != "cpu" or not any(isinstance(module, _CONVOLUTIONS) for module in model.modules())


def _vmap_runs(models: list[nn.Module], x: Tensor) -> bool:
    stacked, buffers = stack_module_state(models)
    try:
        with seeded(0):
            _side_by_side(models[0])(stacked, buffers, x.expand(len(models), *x.shape))
    except RuntimeError:  # if it is not vmap's, training one after the other meets it again
        return False
    return True


def check_training(new_model: object, training: object, seed: object, batched: object) -> None:
    """What :func:`train_shadows` asks of its arguments but for the data, for those who make the data first.

    Raises:
        TypeError, ValueError: as :func:`train_shadows`.
    """
    if isinstance(new_model, nn.Module) or not callable(new_model):
        found = type(new_model).__name__
        raise TypeError(f"new_model must be a function that makes an untrained model, got an object of type {found}")
    if training is not None and not isinstance(training, ShadowTraining):
        raise TypeError(f"training must be a ShadowTraining, got {training!r}")
    check_seed(seed)
    check_choice(batched, (None, True, False), "batched")


def _check(x: Tensor, y: Tensor, memberships: Tensor) -> None:
    for argument, value in (("x", x), ("y", y), ("memberships", memberships)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{argument} must be a tensor, got {type(value).__name__}")
    if memberships.dtype != torch.bool:
        raise TypeError(f"memberships must be bool, got {memberships.dtype}")
    if x.dim() == 0 or len(x) == 0:
        raise ValueError(f"x must be of shape (samples, ...) with one sample or more, got {tuple(x.shape)}")
    if y.dim() != 1 or len(y) != len(x):
        raise ValueError(f"y must be of shape ({len(x)},), got {tuple(y.shape)}")
    if memberships.dim() != 2 or memberships.shape[1] != len(x) or len(memberships) == 0:
        raise ValueError(f"memberships must be of shape (shadows, {len(x)}), got {tuple(memberships.shape)}")
    empty = (~memberships.any(1)).nonzero()[:, 0]
    if len(empty):
        raise ValueError(f"memberships gives shadow {int(empty[0])} no sample to be trained on")


def _made(new_model: Callable[[], nn.Module], shadows: int, seed: int) -> list[nn.Module]:
    models: list[nn.Module] = []
    trained: set[Tensor] = set()
    for shadow in range(shadows):
        with seeded(derived_seed(seed, shadow)):
            model = new_model()
        if not isinstance(model, nn.Module):
            raise TypeError(f"new_model must return a module, got {type(model).__name__}")
        own = {p for p in model.parameters() if p.requires_grad}
        if not own:
            raise ValueError("new_model must make models with parameters that require a gradient")
        if own & trained:  # each would be trained on the others' samples
            raise ValueError(f"new_model must make another model at each call: model {shadow} shares what is trained")
        if models and _architecture(model) != _architecture(models[0]):
            raise ValueError(f"new_model must make models of one architecture: model {shadow} is not like model 0")
        trained |= own
        models.append(model)
    return models


def _architecture(model: nn.Module) -> list[object]:
    return [(name, p.shape, p.dtype, p.device, p.requires_grad) for name, p in model.named_parameters()]


def _check_converged(shadow: int, model: nn.Module, training: ShadowTraining) -> None:
    if not all(bool(p.isfinite().all()) for p in model.parameters()):
        raise ValueError(f"shadow model {shadow} has diverged: training.lr={training.lr} is too large for it")
