"""What tells one call from another."""

from __future__ import annotations

import functools
import gc
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fgunlearn as fg
from fgunlearn.resuming.identity import (
    difference,
    digest,
    digest_of_batches,
    digest_of_model,
    fields_of,
    name_of,
)
from interrupted import mlp


@dataclass
class Batch:
    x: Tensor
    text: str


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x: Tensor) -> None:
        self.x = x


def ring(text: str) -> SimpleNamespace:
    made = SimpleNamespace(text=text)
    made.itself = made
    return made


def nested(*parts: Tensor) -> Tensor:
    return torch.nested.nested_tensor(list(parts), layout=torch.jagged)


VALUES: list[Any] = [
    SimpleNamespace(x=torch.zeros(2)),
    SimpleNamespace(x=torch.ones(2)),
    {"x": SimpleNamespace(x=torch.zeros(3))},
    {"x": SimpleNamespace(x=torch.ones(3))},
    (SimpleNamespace(x=1), 2),
    (SimpleNamespace(x=2), 2),
    Slotted(torch.zeros(2)),
    Slotted(torch.ones(2)),
    date(2026, 1, 1),
    date(2026, 1, 2),
    {1, 2},
    {1, 3},
    ring("a"),
    ring("b"),
    torch.float32,
    torch.float64,
    nested(torch.zeros(2), torch.zeros(1)),
    nested(torch.zeros(1), torch.zeros(2)),
    nested(torch.zeros(2), torch.ones(1)),
    torch.zeros(2, dtype=torch.complex64).conj(),
    np.array([torch.zeros(2000), None], dtype=object),
    np.array([torch.arange(2000) == 999, None], dtype=object),
    torch.zeros(2),
    torch.zeros(2, 1),
    torch.zeros(2, dtype=torch.int32),
    torch.tensor([0.0, -0.0]),
    torch.tensor(0.0),
    torch.zeros(0),
    torch.zeros(2, dtype=torch.bfloat16),
    torch.zeros(2, dtype=torch.complex128),
    np.zeros(2, dtype=np.float32),
    np.array(["a", "b"], dtype=object),
    [torch.zeros(2), 1],
    (torch.zeros(2), 1),
    [torch.zeros(2), True],
    [[torch.zeros(2)], 1],
    {"x": torch.zeros(2)},
    {"y": torch.zeros(2)},
    ["ab", "c"],
    ["a", "bc"],
    Batch(torch.zeros(2), "a"),
    Batch(torch.zeros(2), "b"),
    None,
    0.1,
    "0.1",
]


def test_a_digest_tells_values_types_and_structure_apart() -> None:
    assert len({digest(value) for value in VALUES}) == len(VALUES)


def test_equal_batches_have_one_digest_wherever_they_lie() -> None:
    x = torch.randn(4, 6)
    assert digest([x.T, "a"]) == digest([x.T.contiguous(), "a"])
    assert digest(x[:, ::2]) == digest(x[:, ::2].clone())
    assert digest([object()]) == digest([object()])  # no address is in it
    assert digest(SimpleNamespace(x=x)) == digest(SimpleNamespace(x=x.clone()))
    assert digest({"a", "b", "c"}) == digest({"c", "b", "a"})
    assert digest(torch.ones(2, dtype=torch.complex64).conj()) == digest(torch.ones(2, dtype=torch.complex64).conj())


def test_what_does_not_tell_what_it_holds_is_refused_by_name() -> None:
    for value, kind in ((part for part in ()), "generator"), (SimpleNamespace(lock=threading.Lock()), "lock"):
        with pytest.raises(TypeError, match=f"checkpoint: forget_loader holds a {kind}, which can't be told"):
            digest([value], "forget_loader")


def test_batches_of_a_loader_are_told_apart_one_at_a_time() -> None:
    alive: list[weakref.ref[Tensor]] = []

    def batches(last: float) -> Iterator[Tensor]:
        for value in (1.0, 2.0, 3.0, 4.0, last):
            gc.collect()
            assert sum(ref() is not None for ref in alive) <= 1
            batch = torch.full((3,), value)
            alive.append(weakref.ref(batch))
            yield batch

    assert digest_of_batches(batches(5.0), "heldout_loader") == digest_of_batches(batches(5.0), "heldout_loader")
    assert digest_of_batches(batches(5.0), "heldout_loader") != digest_of_batches(batches(6.0), "heldout_loader")


def test_a_model_is_told_by_every_bit_and_by_what_is_trained() -> None:
    models = [mlp() for _ in range(7)]
    models[1][6].requires_grad_(False)
    with torch.no_grad():
        models[2][0].weight[0, 0] = torch.nextafter(models[2][0].weight[0, 0], torch.tensor(9.0))
    models[3][1].num_batches_tracked += 1
    models[4].register_buffer("more", torch.zeros(1), persistent=False)
    models[5][3].p = 0.4
    models[6][1].momentum = 0.2
    assert len({digest_of_model(model) for model in models}) == 7
    assert digest_of_model(mlp()) == digest_of_model(models[0])


def test_a_function_is_told_by_its_name_and_an_object_by_its_type() -> None:
    assert name_of(None) == "None"
    assert name_of(torch.nn.functional.mse_loss) == "torch.nn.functional.mse_loss"
    assert name_of(functools.partial(print, "a")) == "functools.partial"
    assert name_of(torch.nn.MSELoss()) == "torch.nn.modules.loss.MSELoss"


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ({"a": "1"}, {"a": "1"}, None),
        ({"a": "1", "b": "2"}, {"a": "1", "b": "3"}, "b was 2 and is 3"),
        ({"a": "1"}, {}, "a was 1 and is nothing"),
        ({"a": digest(1)}, {"a": digest(2)}, "a is not what it was"),
    ],
)
def test_the_first_difference_is_said(was: dict[str, str], now: dict[str, str], said: str | None) -> None:
    assert difference(was, now) == said


def test_options_are_told_field_by_field() -> None:
    one, other = (fields_of("repair", fg.Repair(lr=lr)) for lr in (0.1, 0.1 + 2**-52))
    assert one["repair"] == "Repair"
    assert difference(one, other) == f"repair.lr was 0.1 and is {0.1 + 2**-52!r}"
    assert difference(one, fields_of("repair", None)) == "repair was Repair and is None"
