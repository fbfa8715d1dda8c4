"""What ranks do that one of them alone runs into."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import fgunlearn as fg
from on_ranks.selecting import Product, data, mean_of_products
from on_ranks.streaming import product


class Unspeakable(ValueError):
    def __str__(self) -> str:
        raise KeyError("no words")


def words(rank: int, size: int) -> list[str]:
    """What one rank alone runs into, and what it is called where it is hard to say."""
    group = torch.distributed.group.WORLD
    said = []
    odd = rank == size - 1
    mine = [data(4, rank)]

    def refused(call: Callable[[], Any]) -> None:
        with pytest.raises((ValueError, RuntimeError)) as caught:
            call()
        kind = type(caught.value)
        said.append(kind.__name__ if kind is Unspeakable else f"{kind.__name__}: {caught.value}")

    for memory in ("dense", "streaming", "compact"):
        frozen = product((size,)).requires_grad_(not odd)
        how: dict[str, Any] = {"memory": memory}
        refused(lambda model=frozen, how=how: fg.select(model, mine, mean_of_products, fg.TopK(0.3), **how))
    refused(lambda: fg.score(product((size,)).requires_grad_(not odd), mine, mean_of_products))
    for error in (ValueError("no such file: caf\udce9"), Unspeakable()):

        def failing(error: Exception = error) -> Iterator[Any]:
            if odd:
                raise error
            yield mine[0]

        refused(lambda: fg.select(Product(), failing(), mean_of_products, fg.TopK(0.3), group=group))
    empty = [(torch.ones(0, 4), torch.ones(0, 3))]
    expected = fg.select(Product(), [data(4, r) for r in range(size - 1)], mean_of_products, fg.TopK(0.3))
    for memory in ("dense", "streaming"):
        given = empty * 2 if odd else [*empty, *mine, *empty]
        how = {"memory": memory, "group": group}
        assert fg.select(Product(), given, mean_of_products, fg.TopK(0.3), **how) == expected, memory
    refused(lambda: fg.select(Product(), empty, mean_of_products, fg.TopK(0.3), group=group))
    return said
