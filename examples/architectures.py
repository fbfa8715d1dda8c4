"""Small models of the usual kinds, each written from its definition, and torchvision's where it is installed.

They are small enough for scikit-learn's digits (8x8) on one core. What they have of their kind is what matters to
unlearning: batch norm or layer norm, shared and concatenated features, auxiliary outputs, attention, dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fgunlearn.experiment.resnet import ResNet

PADDING = 0
"""The token that fills sequences up."""


def convolution(channels_in: int, channels_out: int, size: int) -> nn.Sequential:
    """A convolution that keeps the image's size, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, size, padding=size // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class VGG(nn.Module):
    """Stages of 3x3 convolutions, each halving the image, then fully connected layers with dropout.

    Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015; with the
    batch norm that torchvision's ``vgg11_bn`` has.
    """

    def __init__(self, in_channels: int = 1, classes: int = 10, widths: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in zip([in_channels, *widths[:-1]], widths, strict=True):
            layers += [convolution(a, b, 3), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Sequential(nn.Linear(widths[-1], 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, classes))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, h, w) to logits (batch, classes)."""
        return self.classifier(self.features(x))


class DenseLayer(nn.Module):
    """Adds ``growth`` channels made from all channels so far: norm, ReLU, 1x1, norm, ReLU, 3x3."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, h, w) to (batch, channels + growth, h, w)."""
        return torch.cat([x, self.body(x)], 1)


class DenseNet(nn.Module):
    """Blocks of densely connected layers; between two blocks half of the channels and a quarter of the pixels go.

    Huang et al., "Densely connected convolutional networks", CVPR 2017.
    """

    def __init__(
        self, in_channels: int = 1, classes: int = 10, growth: int = 8, blocks: Sequence[int] = (2, 2, 2)
    ) -> None:
        super().__init__()
        channels = 2 * growth
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)]
        for position, depth in enumerate(blocks):
            if position > 0:
                layers += [convolution(channels, channels // 2, 1), nn.AvgPool2d(2)]
                channels //= 2
            for _ in range(depth):
                layers.append(DenseLayer(channels, growth))
                channels += growth
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, h, w) to logits (batch, classes)."""
        return self.classifier(self.features(x).mean((2, 3)))


class InceptionModule(nn.Module):
    """Four views of one input side by side: 1x1, 3x3, two 3x3 for a 5x5, and pooling."""

    def __init__(self, channels_in: int, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                convolution(channels_in, width, 1),
                nn.Sequential(convolution(channels_in, width, 1), convolution(width, width, 3)),
                nn.Sequential(
                    convolution(channels_in, width, 1), convolution(width, width, 3), convolution(width, width, 3)
                ),
                nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), convolution(channels_in, width, 1)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels_in, h, w) to (batch, 4 * width, h, w)."""
        return torch.cat([branch(x) for branch in self.branches], 1)


class InceptionOutputs(NamedTuple):
    """What an Inception returns in train mode; the names are torchvision's."""

    logits: Tensor
    aux_logits: Tensor


class Inception(nn.Module):
    """Inception modules, and an auxiliary classifier half way up that only training sees.

    Szegedy et al., "Going deeper with convolutions", CVPR 2015, and "Rethinking the Inception architecture", CVPR 2016.
    """

    def __init__(self, in_channels: int = 1, classes: int = 10, width: int = 8) -> None:
        super().__init__()
        self.stem = convolution(in_channels, 2 * width, 3)
        self.lower = InceptionModule(2 * width, width)
        self.auxiliary = nn.Linear(4 * width, classes)
        self.upper = nn.Sequential(nn.MaxPool2d(2), InceptionModule(4 * width, 2 * width))
        self.head = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor | InceptionOutputs:
        """(batch, in_channels, h, w) to logits (batch, classes); in train mode to two of them."""
        lower = self.lower(self.stem(x))
        logits = self.head(self.upper(lower).mean((2, 3)))
        return InceptionOutputs(logits, self.auxiliary(lower.mean((2, 3)))) if self.training else logits


def encoder(width: int, layers: int, dropout: float) -> nn.TransformerEncoder:
    """Transformer layers with the norm inside the residual branches, which trains without a long warm-up."""
    layer = nn.TransformerEncoderLayer(
        width, 4, 2 * width, dropout, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)


class ViT(nn.Module):
    """Patches of the image as tokens beside one that gathers the class, positions learned.

    Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021.
    """

    def __init__(
        self, in_channels: int = 1, classes: int = 10, size: int = 8, patch: int = 2, width: int = 48, layers: int = 3
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + (size // patch) ** 2, width))
        self.encoder = encoder(width, layers, 0.0)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, size, size) to logits (batch, classes)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], 1) + self.positions
        return self.head(self.encoder(tokens)[:, 0])


class TextTransformer(nn.Module):
    """Words and positions embedded, a transformer encoder, the mean over the words that are no padding.

    Vaswani et al., "Attention is all you need", NeurIPS 2017 (the encoder).
    """

    def __init__(self, words: int, classes: int, length: int, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=PADDING)
        self.positions = nn.Parameter(0.02 * torch.randn(1, length, width))
        self.encoder = encoder(width, layers, 0.0)
        self.head = nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Int (batch, length), and which of them are words, to logits (batch, classes).

        Without a mask all but padding are words: so the model also takes the ``(x, y)`` batches of the metrics.
        """
        words = input_ids != PADDING if attention_mask is None else attention_mask.bool()
        hidden = self.embedding(input_ids) + self.positions[:, : input_ids.shape[1]]
        hidden = self.encoder(hidden, src_key_padding_mask=~words)
        weights = words.unsqueeze(2).to(hidden)
        return self.head((hidden * weights).sum(1) / weights.sum(1))


class SeriesCNN(nn.Module):
    """One-dimensional convolutions with batch norm, the mean over time, a linear layer.

    Wang et al., "Time series classification from scratch with deep neural networks", IJCNN 2017.
    """

    def __init__(self, in_channels: int = 1, classes: int = 4, widths: Sequence[int] = (16, 32, 32)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b, size in zip([in_channels, *widths[:-1]], widths, (7, 5, 3), strict=True):
            layers += [nn.Conv1d(a, b, size, stride=2, padding=size // 2, bias=False), nn.BatchNorm1d(b), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, length) to logits (batch, classes)."""
        return self.head(self.features(x).mean(2))


def mlp(features: int, classes: int, width: int = 64) -> nn.Sequential:
    """A multilayer perceptron: (batch, features) to logits (batch, classes)."""
    return nn.Sequential(
        nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    )


IMAGE_MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "resnet": lambda in_channels, classes: ResNet(in_channels, classes, (8, 16, 32)),
    "vgg": VGG,
    "densenet": DenseNet,
    "inception": Inception,
    "vit": ViT,
}
"""By name, functions of the number of channels and of classes."""


def image_model(name: str, in_channels: int = 1, classes: int = 10) -> nn.Module:
    """A new model for 8x8 images.

    Raises:
        ValueError: an unknown name.
    """
    if name not in IMAGE_MODELS:
        raise ValueError(f"model must be one of {', '.join(IMAGE_MODELS)}, got {name!r}")
    return IMAGE_MODELS[name](in_channels, classes)


def torchvision_model(name: str, classes: int = 10) -> tuple[nn.Module, int]:
    """torchvision's model of that kind with random weights, for colour images, and the image size it is given here.

    Sizes are the smallest that work: an auxiliary classifier needs Inception's full 299 pixels. VGG's two hidden layers
    of 4,096, made for 224 pixels, are left out (119 of its 129 million parameters).

    Raises:
        ValueError: an unknown name.
        ImportError, RuntimeError: torchvision is not installed, or made for another torch.
    """
    if name not in IMAGE_MODELS:
        raise ValueError(f"model must be one of {', '.join(IMAGE_MODELS)}, got {name!r}")
    from torchvision import models

    if name == "resnet":
        return models.resnet18(num_classes=classes), 32
    if name == "vgg":
        vgg = models.vgg11_bn(num_classes=classes)
        vgg.avgpool, vgg.classifier = nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Linear(512, classes))
        return vgg, 32
    if name == "densenet":
        return models.densenet121(num_classes=classes), 32
    if name == "inception":
        return models.inception_v3(num_classes=classes, aux_logits=True, init_weights=False), 299
    vit = models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=classes
    )
    nn.init.normal_(vit.heads.head.weight, std=0.02)  # torchvision starts it at zero, where no gradient goes further
    return vit, 32


def cross_entropy_with_auxiliary(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A ``loss_fn`` for models that return a named tuple in train mode and a tensor in eval mode.

    fgunlearn scores in eval mode, so the auxiliary classifier, which no prediction depends on, gets score 0; it repairs
    in train mode. The weight 0.3 is that of "Going deeper with convolutions". For any other model it is cross entropy.
    """
    x, y = batch
    outputs = model(x)
    if isinstance(outputs, Tensor):
        return F.cross_entropy(outputs, y)
    return F.cross_entropy(outputs.logits, y) + 0.3 * F.cross_entropy(outputs.aux_logits, y)
