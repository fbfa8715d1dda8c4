"""A model as its sizes: what a plan has to know of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fgunlearn.arguments import check_count

ITEMSIZE = {"bf16": 2, "f16": 2, "f32": 4, "f64": 8}
"""Bytes of a parameter, by dtype."""

NARROW_LIMIT = 2**31
"""Elements of a tensor from which on its indices are int64 (``fgunlearn.ops.select.index_dtype``)."""

_WIDTH_PER_LAYER = 128  # of a usual decoder, when only its number of parameters is known
_VOCABULARY = 2**17


@dataclass(frozen=True)
class ModelSize:
    """A decoder-only transformer's sizes.

    Attributes:
        parameters: n.
        dtype: a key of ``ITEMSIZE``.
        layers: how many blocks of one size; with FSDP2, each is sharded by itself.
        width: of the residual stream.
        largest_tensor: elements of the largest parameter, taken for an embedding.
        tied: whether the output uses the embedding's weights: the gradient of a tied tensor waits for its second part.
    """

    parameters: int
    dtype: str
    layers: int
    width: int
    largest_tensor: int
    tied: bool = False

    @classmethod
    def of(
        cls,
        parameters: int,
        dtype: str = "bf16",
        *,
        layers: int | None = None,
        width: int | None = None,
        largest_tensor: int | None = None,
        tied: bool = False,
    ) -> ModelSize:
        """With usual values for what is not given.

        A block has about 12 width^2 parameters, and a usual decoder is 128 times as wide as it has layers, so that
        n = 12 layers (128 layers)^2; given one of the two, n = 12 layers width^2 gives the other. The largest tensor
        is the embedding of 2^17 words, but no more than a quarter of the model, or a matrix of 4 width^2.

        Raises:
            TypeError, ValueError: no whole number >= 1; a tensor larger than the model; an unknown dtype.
        """
        check_count(parameters, "parameters")
        for argument, value in (("layers", layers), ("width", width), ("largest_tensor", largest_tensor)):
            if value is not None:
                check_count(value, argument)
        if dtype not in ITEMSIZE:
            raise ValueError(f"dtype must be one of {', '.join(ITEMSIZE)}, got {dtype!r}")
        if layers is None:
            usual = (parameters / (12 * _WIDTH_PER_LAYER**2)) ** (1 / 3)
            layers = max(1, round(usual if width is None else parameters / (12 * width**2)))
        if width is None:
            width = max(1, round(math.sqrt(parameters / (12 * layers))))
        if largest_tensor is None:
            largest_tensor = min(parameters, max(4 * width**2, min(_VOCABULARY * width, parameters // 4)))
        if largest_tensor > parameters:
            raise ValueError(
                f"largest_tensor must be at most the number of parameters, {parameters}, got {largest_tensor}"
            )
        return cls(parameters, dtype, layers, width, largest_tensor, tied)

    @property
    def itemsize(self) -> int:
        """Bytes of a parameter and of its gradient."""
        return ITEMSIZE[self.dtype]

    @property
    def sum_itemsize(self) -> int:
        """Bytes of a score and of an optimizer's state: float32, or float64 of float64 parameters."""
        return max(4, self.itemsize)

    @property
    def root(self) -> int:
        """Parameters outside the blocks that are large: the embedding, and the output unless tied to it."""
        return min(self.parameters, self.largest_tensor * (1 if self.tied else 2))

    @property
    def block(self) -> int:
        """Parameters of a block."""
        return -(-(self.parameters - self.root) // self.layers)

    def activations(self, tokens: int, recompute: bool = False) -> int:
        """Bytes that a forward pass over so many tokens keeps for the backward pass: an estimate.

        34 bytes per token, layer and unit of width in 16-bit precision (Korthikanti et al., "Reducing activation
        recomputation in large transformer models", arXiv 2205.05198, section 4.1, without the 5 a s / h of attention
        scores, which fused attention does not keep, and with dropout, which few still use), 17 values of the dtype in
        other words; and the output's logits, their float32 copy and its gradient, for as many words as the largest
        tensor has rows of that width. With ``recompute``, which keeps each block's input alone and computes the block
        again for its backward pass, that is one value per layer, and one block's 17.
        """
        words = self.largest_tensor // self.width
        values = self.layers + 17 if recompute else 17 * self.layers
        return tokens * (values * self.width * self.itemsize + words * (self.itemsize + 2 * 4))
