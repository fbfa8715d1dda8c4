from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fgunlearn import ops
from fgunlearn.ops.update import sparse_sgd_ref

CASES = [
    {"momentum": 0.0, "dampening": 0.0, "nesterov": False},
    {"momentum": 0.9, "dampening": 0.0, "nesterov": False},
    {"momentum": 0.9, "dampening": 0.3, "nesterov": False},
    {"momentum": 0.9, "dampening": 0.0, "nesterov": True},
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_step_equals_its_specification(
    case: dict[str, Any], weight_decay: float, maximize: bool, dtype: torch.dtype
) -> None:
    state = torch.float64 if dtype == torch.float64 else torch.float32
    params = [torch.randn(3, 4, 5, 5).to(dtype).to(memory_format=torch.channels_last), torch.randn(70_000).to(dtype)]
    grads = [torch.randn(3, 4, 5, 5).to(dtype), torch.randn(70_000).to(dtype)]
    index = [torch.arange(0, 300, 2, dtype=torch.int32), torch.arange(7, 70_000, 3)]
    buffers = [torch.randn(i.numel(), dtype=state) for i in index] if case["momentum"] else []
    arguments = {"first": [1, 0], "lr": 0.1, "weight_decay": weight_decay, "maximize": maximize, **case}
    expected, new_buffers = sparse_sgd_ref(params, grads, index, buffers, **arguments)
    untouched = [p.clone() for p in params]
    ops.sparse_sgd_(params, grads, index, buffers, **arguments)
    assert all(map(torch.equal, params, expected))
    assert all(map(torch.equal, buffers, new_buffers))
    for p, was, i in zip(params, untouched, index, strict=True):
        off = torch.ones(p.numel(), dtype=torch.bool)
        off[i.long()] = False
        assert p.reshape(-1)[off].equal(was.reshape(-1)[off])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fifty_steps_are_those_of_torch_with_a_changing_learning_rate(
    case: dict[str, Any], weight_decay: float, maximize: bool, dtype: torch.dtype
) -> None:
    whole = torch.randn(40, 9, dtype=dtype)
    index = torch.arange(2, 360, 3)
    vector = nn.Parameter(whole.reshape(-1)[index].clone())
    optimizer = torch.optim.SGD([vector], lr=0.1, weight_decay=weight_decay, maximize=maximize, **case)
    buffers = [torch.full((index.numel(),), math.nan, dtype=dtype)] if case["momentum"] else []
    for step in range(50):
        grad = torch.randn(40, 9, dtype=dtype)
        lr = 0.01 * (1 + step % 7)
        vector.grad = grad.reshape(-1)[index].clone()
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        first = [int(step == 0)]
        ops.sparse_sgd_(
            [whole], [grad], [index], buffers, first, lr, weight_decay=weight_decay, maximize=maximize, **case
        )
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(whole.reshape(-1)[index], vector.detach(), rtol=tolerance, atol=tolerance)


def test_hundreds_of_tensors_give_the_same_bits_on_any_number_of_threads(threads: Callable[[int], None]) -> None:
    shapes = [(n % 90, 11) for n in range(300)] + [(), (50_000,)]
    start, grads = [torch.randn(s) for s in shapes], [torch.randn(s) for s in shapes]
    index = [torch.arange(0, t.numel(), 2) for t in start]
    answers = []
    for count in (1, 2, 8):
        threads(count)
        params, buffers = [t.clone() for t in start], [torch.zeros(i.numel()) for i in index]
        for first in (1, 0, 0):
            ops.sparse_sgd_(params, grads, index, buffers, [first] * 302, 0.1, 0.9, 0.1, 0.01, False, False)
        answers.append(torch.cat([t.reshape(-1) for t in params + buffers]))
    assert answers[0].equal(answers[1])
    assert answers[0].equal(answers[2])


def test_backward_through_parameters_that_were_stepped_raises() -> None:
    p = nn.Parameter(torch.ones(3))
    loss = (p * p).sum()
    with torch.no_grad():
        ops.sparse_sgd_([p], [torch.ones(3)], [torch.tensor([1])], [], [1], 0.1, 0.0, 0.0, 0.0, False, False)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_an_expanded_parameter_is_refused() -> None:
    p = torch.ones(1).expand(3)
    with pytest.raises(RuntimeError, match=r"sparse_sgd_: param\[0\] is expanded"):
        ops.sparse_sgd_([p], [torch.ones(3)], [torch.tensor([1])], [], [1], 0.1, 0.0, 0.0, 0.0, False, False)
    assert p.tolist() == [1.0, 1.0, 1.0]


def test_an_infinite_parameter_without_decay_is_not_looked_at_twice() -> None:
    p = torch.tensor([math.inf])
    ops.sparse_sgd_([p], [torch.zeros(1)], [torch.tensor([0])], [], [1], 0.1, 0.0, 0.0, 0.0, False, False)
    assert p.item() == math.inf


GOOD: dict[str, Any] = {
    "grad": [torch.ones(3)],
    "indices": [torch.tensor([0, 2])],
    "momentum_buffer": [torch.zeros(2)],
    "first": [1],
    "lr": 0.1,
    "momentum": 0.9,
    "dampening": 0.0,
    "weight_decay": 0.0,
    "nesterov": False,
    "maximize": False,
}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"grad": [torch.ones(4)]}, r"param\[0\] has shape \(3\) and grad\[0\] has shape \(4\)"),
        ({"grad": [torch.ones(3).half()]}, r"grad\[0\] must have the dtype"),
        ({"grad": []}, "param has 1 entries and grad has 0"),
        ({"indices": [torch.tensor([0, 3])]}, "= 3 is out of range"),
        ({"momentum_buffer": [torch.zeros(3)]}, r"momentum_buffer\[0\] has 3 elements for 2 indices"),
        ({"momentum_buffer": [torch.zeros(2).half()]}, "contiguous float32"),
        ({"momentum_buffer": []}, "param has 1 entries and momentum_buffer has 0"),
        ({"momentum": 0.0}, "must be empty when momentum is 0"),
        ({"first": []}, "first has 0"),
        ({"lr": math.nan}, "must be finite, got nan"),
    ],
)
def test_bad_input_is_refused_and_nothing_changes(changed: dict[str, Any], words: str) -> None:
    p = torch.ones(3)
    arguments = {**GOOD, "momentum_buffer": [torch.zeros(2)], **changed}
    with pytest.raises(RuntimeError, match=words):
        ops.sparse_sgd_([p], **arguments)
    assert p.equal(torch.ones(3))
    assert all(not bool(b.any()) for b in arguments["momentum_buffer"])


def test_the_op_passes_opcheck() -> None:
    p: list[Tensor] = [torch.randn(9)]
    arguments = ([torch.randn(9)], [torch.tensor([1, 3])], [torch.zeros(2)], [1], 0.1, 0.9, 0.0, 0.0, True, False)
    torch.library.opcheck(torch.ops.fgunlearn.sparse_sgd_, (p, *arguments, None, None, None, False, None, [], []))


def test_step_counts_that_are_too_few_are_refused() -> None:
    p = [torch.ones(3) for _ in range(40)]
    index = [torch.tensor([0])] * 40
    arguments = (p, [torch.ones(3)] * 40, index, [], [0] * 40, 0.1, 0.0, 0.0, 0.0, False, False)
    with pytest.raises(RuntimeError, match="param has 40 entries and step has 1"):
        ops.sparse_sgd_(*arguments, step=[torch.tensor(1.0)])
    assert all(t.equal(torch.ones(3)) for t in p)
