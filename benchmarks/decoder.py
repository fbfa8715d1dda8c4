"""A decoder-only transformer of a wanted size, random weights made in their own dtype: without a float32 copy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_WIDTH = 64
WIDTHS = 128  # a model's width is a multiple of this


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder: vocabulary, width, layers, and the width of the gated MLP's hidden layer."""

    words: int
    width: int
    layers: int
    hidden: int

    @property
    def parameters(self) -> int:
        """Their number: embedding and output, per layer four projections, three matrices of the MLP, two norms."""
        layer = 4 * self.width**2 + 3 * self.width * self.hidden + 2 * self.width
        return 2 * self.words * self.width + self.layers * layer + self.width

    @property
    def largest_tensor(self) -> int:
        """Elements of the largest parameter."""
        return self.width * max(self.words, self.hidden)


def shape_of(parameters: float) -> Shape:
    """About so many parameters, in proportions that are usual: width 115 per layer, an MLP of 8/3 of the width.

    Raises:
        ValueError: fewer than 1e6.
    """
    if not parameters >= 1e6:
        raise ValueError(f"parameters must be at least 1e6, got {parameters:g}")
    words = 32_000 if parameters >= 5e7 else 1_000
    # n is about 12 layers width^2 = 12 width^3 / 115 without the embeddings.
    width = WIDTHS * max(1, round((parameters * 115 / 12) ** (1 / 3) / WIDTHS))
    hidden = WIDTHS * round(8 * width / 3 / WIDTHS)
    one = Shape(words, width, 1, hidden)
    layer = one.parameters - Shape(words, width, 0, hidden).parameters
    return Shape(words, width, max(1, round((parameters - one.parameters) / layer) + 1), hidden)


class Block(nn.Module):
    """Causal self-attention and a gated MLP, each after a norm and beside a residual."""

    def __init__(self, shape: Shape, dtype: torch.dtype) -> None:
        super().__init__()
        width, hidden = shape.width, shape.hidden
        self.attention_norm = nn.RMSNorm(width, dtype=dtype)
        self.qkv = nn.ModuleList(nn.Linear(width, width, bias=False, dtype=dtype) for _ in range(3))
        self.out = nn.Linear(width, width, bias=False, dtype=dtype)
        self.mlp_norm = nn.RMSNorm(width, dtype=dtype)
        self.gate = nn.Linear(width, hidden, bias=False, dtype=dtype)
        self.up = nn.Linear(width, hidden, bias=False, dtype=dtype)
        self.down = nn.Linear(hidden, width, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        normed = self.attention_norm(x)
        heads = (project(normed).view(batch, length, -1, HEAD_WIDTH).transpose(1, 2) for project in self.qkv)
        attended = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        normed = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


class Decoder(nn.Module):
    """Token numbers to logits; untied output, no positions (random weights have no use for them)."""

    def __init__(self, shape: Shape, dtype: torch.dtype) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.words, shape.width, dtype=dtype)
        self.layers = nn.ModuleList(Block(shape, dtype) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, dtype=dtype)
        self.head = nn.Linear(shape.width, shape.words, bias=False, dtype=dtype)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def next_token_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Cross entropy of each token given those before it, (batch, length) token numbers."""
    return F.cross_entropy(model(ids)[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
