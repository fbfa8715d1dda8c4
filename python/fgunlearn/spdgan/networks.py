"""The generator and the critic, for images, series and vectors.

Both see samples in units of their own range, centred on 0, see :class:`fgunlearn.spdgan.samples.UnitRange`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

SMALLEST_SIDE = 8
MOST_CHANNELS = 4
_GROUPS = 4
_SLOPE = 0.2  # of the critic's leaky rectifiers


def check_shape(shape: Sequence[int]) -> None:
    """That a sample of this shape is one the networks are made for.

    Raises:
        ValueError: not (features,), (channels, length) with length >= 8, or (channels, h, w) with h, w >= 8; images of
            more than 4 channels.
    """
    shape = tuple(shape)
    if len(shape) not in (1, 2, 3) or min(shape, default=0) < 1:
        raise ValueError(
            "samples must be vectors (features,), series (channels, length) or images (channels, h, w), "
            f"got shape {shape}"
        )
    if min(shape[1:], default=SMALLEST_SIDE) < SMALLEST_SIDE:
        raise ValueError(f"images and series must measure at least {SMALLEST_SIDE} on each side, got shape {shape}")
    if len(shape) == 3 and shape[0] > MOST_CHANNELS:
        raise ValueError(f"images must have 1 to {MOST_CHANNELS} channels, got shape {shape}")


@dataclass(frozen=True)
class _Convolutions:
    """Convolution layers of one or two dimensions."""

    dimensions: int

    def conv(self, channels_in: int, channels_out: int, stride: int = 1) -> nn.Module:
        layer = {1: nn.Conv1d, 2: nn.Conv2d}[self.dimensions]
        made: nn.Module = layer(channels_in, channels_out, 3, stride, 1)
        return made


class _ResidualBlock(nn.Module):
    """Two convolutions, normalised and rectified before each (He et al., ECCV 2016), added to the input."""

    def __init__(self, layers: _Convolutions, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(_GROUPS, width), nn.GroupNorm(_GROUPS, width)
        self.conv1, self.conv2 = layers.conv(width, width), layers.conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x)))
        out: Tensor = x + self.conv2(F.relu(self.norm2(h)))
        return out


class _ConvolutionalGenerator(nn.Module):
    """Encoder to half the size, residual blocks, decoder back to the size it came from, with a skip at full size."""

    def __init__(self, dimensions: int, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        layers = _Convolutions(dimensions)
        self.stem = layers.conv(channels, width)
        self.down = layers.conv(width, 2 * width, stride=2)
        self.blocks = nn.Sequential(*(_ResidualBlock(layers, 2 * width) for _ in range(blocks)))
        self.up = layers.conv(2 * width, width)
        self.norm = nn.GroupNorm(_GROUPS, width)
        self.out = layers.conv(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        full: Tensor = F.relu(self.stem(x))
        half = self.blocks(F.relu(self.down(full)))
        back = self.up(F.interpolate(half, size=full.shape[2:], mode="nearest"))  # an odd size too
        out: Tensor = self.out(F.relu(self.norm(back) + full))
        return out


class _VectorGenerator(nn.Module):
    """The same for vectors: a linear layer, residual blocks of two, a linear layer."""

    def __init__(self, features: int, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Linear(features, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.out = nn.Linear(width, features)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for block in self.blocks:
            h = h + block(h)
        out: Tensor = self.out(F.relu(h))
        return out


def generator(shape: Sequence[int], width: int, blocks: int) -> nn.Module:
    """An untrained generator: samples (batch, \\*shape) to g of the same shape.

    Args:
        shape: of a sample: (channels, h, w), (channels, length) or (features,).
        width: channels at full size, a multiple of 4; four times as many hidden units for vectors.
        blocks: residual blocks.

    Raises:
        ValueError: see :func:`check_shape`.
    """
    check_shape(shape)
    if len(shape) == 1:
        return _VectorGenerator(shape[0], 4 * width, blocks)
    return _ConvolutionalGenerator(len(shape) - 1, shape[0], width, blocks)


class Critic(nn.Module):
    """Says how real a sample seems, one number each, smoothly: spectral normalisation (Miyato et al., ICLR 2018).

    Every weight matrix has norm 1, as nearly as its power iteration, a step per forward pass in training, has found it.
    For vectors that makes the critic 1-Lipschitz; a convolution of 3 (3x3) taps may stretch by sqrt(3) (3).

    Args:
        shape: of a sample, see :func:`generator`.
        width: channels at full size; four times as many hidden units for vectors.
    """

    def __init__(self, shape: Sequence[int], width: int) -> None:
        super().__init__()
        check_shape(shape)
        self._of_vectors = len(shape) == 1
        if self._of_vectors:
            steps: list[nn.Module] = [nn.Linear(shape[0], 4 * width), nn.Linear(4 * width, 2 * width)]
        else:
            layers = _Convolutions(len(shape) - 1)
            steps = [
                layers.conv(shape[0], width),
                layers.conv(width, 2 * width, stride=2),
                layers.conv(2 * width, 2 * width, stride=2),
            ]
        self.steps = nn.ModuleList(spectral_norm(step) for step in steps)
        self.head = spectral_norm(nn.Linear(2 * width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, \\*shape) to (batch,)."""
        for step in self.steps:
            x = F.leaky_relu(step(x), _SLOPE)
        if not self._of_vectors:
            # Not the mean: over many places that would make the critic blind to a change in a few.
            x = x.flatten(2).sum(2) / math.sqrt(math.prod(x.shape[2:]))
        out: Tensor = self.head(x).squeeze(1)
        return out
