"""A small residual network with batch norm: the demo's model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut (He et al., CVPR 2016)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels_in, h, w) to (batch, channels_out, ceil(h / stride), ceil(w / stride))."""
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, one residual block per width (each but the first halves the image), mean over the image, a linear layer.

    Works on square and other images from 4x4 up; the demo uses 8x8 (digits) and 32x32 (CIFAR-10).

    Args:
        in_channels: of the images.
        classes: number of logits.
        widths: channels of the stem and of each stage. Fewer than 8 in all but the last are not safe to train on a CPU
            with AVX2 alone, channels last: there oneDNN writes beyond a buffer (its issue 6035, open in 2026).

    Raises:
        ValueError: a size below 1, or no width.
    """

    def __init__(self, in_channels: int = 1, classes: int = 10, widths: Sequence[int] = (16, 32, 96)) -> None:
        super().__init__()
        if len(widths) == 0 or min(widths) < 1:
            raise ValueError(f"widths must be one or more positive ints, got {tuple(widths)}")
        for argument, value in (("in_channels", in_channels), ("classes", classes)):
            if value < 1:
                raise ValueError(f"{argument} must be >= 1, got {value}")
        self.stem = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        pairs = zip([widths[0], *widths[:-1]], widths, strict=True)
        self.stages = nn.Sequential(*(ResidualBlock(a, b, 1 if i == 0 else 2) for i, (a, b) in enumerate(pairs)))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, h, w) to logits (batch, classes)."""
        features: Tensor = self.stages(F.relu(self.norm(self.stem(x))))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits
