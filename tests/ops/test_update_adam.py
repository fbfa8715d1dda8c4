from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fgunlearn import ops
from fgunlearn.ops.update import sparse_adam_ref, sparse_sgd_ref, whole_power_ref

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
HYPER: dict[str, Any] = {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1}
KINDS: list[dict[str, Any]] = [
    {"decoupled": decoupled, "amsgrad": amsgrad, "maximize": maximize}
    for decoupled in (False, True)
    for amsgrad in (False, True)
    for maximize in (False, True)
]


def problem(dtype: torch.dtype, amsgrad: bool) -> tuple[list[Tensor], dict[str, Any]]:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    params = [torch.randn(3, 4, 5, 5).to(dtype).to(memory_format=torch.channels_last), torch.randn(70_000).to(dtype)]
    index = [torch.arange(0, 300, 2, dtype=torch.int32), torch.arange(7, 70_000, 3)]
    return params, {
        "grad": [torch.randn(3, 4, 5, 5).to(dtype), torch.randn(70_000).to(dtype)],
        "indices": index,
        "exp_avg": [torch.randn(i.numel(), dtype=wide) for i in index],
        "exp_avg_sq": [torch.rand(i.numel(), dtype=wide) for i in index],
        "max_exp_avg_sq": [torch.rand(i.numel(), dtype=wide) for i in index] if amsgrad else [],
        "step": [torch.tensor(1.0), torch.tensor(1234.0)],
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_is_its_specification_bit_for_bit(kind: dict[str, Any], weight_decay: float, dtype: torch.dtype) -> None:
    params, inputs = problem(dtype, kind["amsgrad"])
    hyper = {**HYPER, **kind, "weight_decay": weight_decay}
    expected = sparse_adam_ref(params, **inputs, **hyper)
    before = [p.clone() for p in params]
    ops.sparse_adam_(params, **inputs, **hyper)
    for got, wanted in zip(
        (inputs["exp_avg"], inputs["exp_avg_sq"], inputs["max_exp_avg_sq"]), expected[1:], strict=True
    ):
        assert all(map(torch.equal, got, wanted))
    if dtype == torch.float64:  # torch's square root of float64 is not always correctly rounded
        torch.testing.assert_close(params, expected[0], rtol=1e-14, atol=1e-14)
    else:
        assert all(map(torch.equal, params, expected[0]))
    for p, was, index in zip(params, before, inputs["indices"], strict=True):
        off = torch.ones(p.numel(), dtype=torch.bool)
        off[index.long()] = False
        assert p.reshape(-1)[off].equal(was.reshape(-1)[off])
        assert not p.reshape(-1)[~off].equal(was.reshape(-1)[~off])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fifty_steps_are_those_of_torch_with_a_changing_learning_rate(kind: dict[str, Any], dtype: torch.dtype) -> None:
    whole = torch.randn(40, 9, dtype=dtype)
    index = torch.arange(2, 360, 3)
    vector = nn.Parameter(whole.reshape(-1)[index].clone())
    optimizer = torch.optim.Adam(
        [vector],
        betas=(HYPER["beta1"], HYPER["beta2"]),
        eps=HYPER["eps"],
        weight_decay=HYPER["weight_decay"],
        amsgrad=kind["amsgrad"],
        maximize=kind["maximize"],
        decoupled_weight_decay=kind["decoupled"],
    )
    moments = [[torch.zeros(index.numel(), dtype=dtype)] for _ in range(3)]
    if not kind["amsgrad"]:
        moments[2] = []
    for step in range(50):
        grad = torch.randn(40, 9, dtype=dtype)
        lr = 0.01 * (1 + step % 7)
        vector.grad = grad.reshape(-1)[index].clone()
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        count = [torch.tensor(step + 1.0)]
        ops.sparse_adam_([whole], [grad], [index], *moments, count, **{**HYPER, **kind, "lr": lr})
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(whole.reshape(-1)[index], vector.detach(), rtol=tolerance, atol=tolerance)


def test_powers_by_squaring_are_powers() -> None:
    for base in (0.0, 0.5, 0.9, 0.999, 0.99999):
        for n in (0, 1, 2, 3, 1000, 12345, 10**6):
            assert whole_power_ref(base, n) == pytest.approx(base**n, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("dtype", DTYPES)
def test_selected_values_alone_give_the_bits_of_whole_gradients(dtype: torch.dtype) -> None:
    params, inputs = problem(dtype, False)
    twins, copies = [p.clone() for p in params], {k: [t.clone() for t in v] for k, v in inputs.items()}
    copies["grad"] = ops.sparse_gather(inputs["grad"], inputs["indices"])
    kind = {"decoupled": True, "amsgrad": False, "maximize": False}
    ops.sparse_adam_(params, **inputs, **HYPER, **kind)
    ops.sparse_adam_(twins, **copies, **HYPER, **kind, gathered=True)
    assert all(map(torch.equal, params, twins))
    ops.sparse_sgd_(params, inputs["grad"], inputs["indices"], [], [0, 0], 0.1, 0.0, 0.0, 0.1, False, False)
    ops.sparse_sgd_(
        twins, copies["grad"], inputs["indices"], [], [0, 0], 0.1, 0.0, 0.0, 0.1, False, False, gathered=True
    )
    assert all(map(torch.equal, params, twins))


def test_a_scale_is_taken_off_and_an_infinite_gradient_moves_nothing() -> None:
    params, inputs = problem(torch.float32, False)
    kind = {"decoupled": True, "amsgrad": False, "maximize": False}
    expected = sparse_adam_ref(params, **inputs, **HYPER, **kind)
    before = [p.clone() for p in params]
    inputs["grad"] = [1024 * g for g in inputs["grad"]]
    scale = torch.tensor(1024.0)
    ops.sparse_adam_(params, **inputs, **HYPER, **kind, grad_scale=scale, found_inf=torch.tensor(1.0))
    assert all(map(torch.equal, params, before))
    lr_tensor = torch.tensor(HYPER["lr"], dtype=torch.float64)
    hyper = {**HYPER, **kind, "lr": 0.0, "lr_tensor": lr_tensor, "grad_scale": scale, "found_inf": torch.tensor(0.0)}
    ops.sparse_adam_(params, **inputs, **hyper)
    assert all(map(torch.equal, params, expected[0]))


@pytest.mark.parametrize("step", [1, 2, 70_000])
def test_stochastic_rounding_is_its_specification_bit_for_bit(step: int) -> None:
    params, inputs = problem(torch.bfloat16, False)
    inputs["step"] = [torch.tensor(float(step))] * 2
    options: dict[str, Any] = {"rounding_seed": -5, "offsets": [2**33, 300]}
    kind = {"decoupled": True, "amsgrad": False, "maximize": False}
    expected = sparse_adam_ref(params, **inputs, **HYPER, **kind, **options)
    ops.sparse_adam_(params, **inputs, **HYPER, **kind, **options)
    assert all(map(torch.equal, params, expected[0]))
    arguments = (inputs["grad"], inputs["indices"], [], [0, 0], 0.001, 0.0, 0.0, 0.0, False, False)
    wanted, _ = sparse_sgd_ref(params, *arguments, step=inputs["step"], **options)
    ops.sparse_sgd_(params, *arguments, step=inputs["step"], **options)
    assert all(map(torch.equal, params, wanted))


def test_stochastic_rounding_keeps_what_rounding_to_nearest_loses() -> None:
    # 1/1000 of a unit in the last place per step: to nearest nothing ever moves; at random the mean does, by as much.
    n, ulp = 20_000, 2.0**-7
    drift = ulp / 1000
    moved = {}
    for seed in (None, 3):
        p = torch.ones(n, dtype=torch.bfloat16)
        grad = torch.full((n,), -drift, dtype=torch.bfloat16)
        for step in range(1, 101):
            ops.sparse_sgd_(
                *([p], [grad], [torch.arange(n)], [], [0], 1.0, 0.0, 0.0, 0.0, False, False),
                rounding_seed=seed,
                step=[torch.tensor(float(step))] if seed is not None else [],
                offsets=[0] if seed is not None else [],
            )
        moved[seed] = float((p.double() - 1).mean())
        assert set(((p.double() - 1) / ulp).tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    assert moved[None] == 0
    # 100 draws with p = 1/1000 for each of n: a standard deviation of sqrt(0.1 / n) units
    expected = 100 * float(torch.tensor(drift, dtype=torch.bfloat16)) / ulp
    assert moved[3] / ulp == pytest.approx(expected, abs=5 * math.sqrt(expected / n))


@given(value=st.floats(-(2.0**127), 2.0**127, width=32), seed=st.integers(0, 2**63 - 1))
@settings(max_examples=50, deadline=None)
def test_stochastic_rounding_gives_a_neighbour_and_is_unbiased(value: float, seed: int) -> None:
    n = 4096
    p = torch.zeros(n, dtype=torch.bfloat16)
    moments = [torch.full((n,), -value)]  # the first step's direction is the buffer: p = 0 - 1 * -value
    ops.sparse_sgd_(
        *([p], [p.clone()], [torch.arange(n)], moments, [0], 1.0, 1.0, 0.0, 0.0, False, False),
        rounding_seed=seed,
        step=[torch.tensor(1.0)],
        offsets=[0],
    )
    pattern = torch.tensor(value).view(torch.int32) & -65536
    toward_zero = float(pattern.view(torch.float32))
    away = float((pattern + 65536).view(torch.float32)) if value != toward_zero else toward_zero
    assert set(p.double().tolist()) <= {toward_zero, away}
    if value != toward_zero and math.isfinite(away):
        share = (value - toward_zero) / (away - toward_zero)
        assert float((p.double() == away).double().mean()) == pytest.approx(share, abs=6 * 0.5 / math.sqrt(n))


def test_infinity_and_nan_stay_under_stochastic_rounding() -> None:
    p = torch.tensor([math.inf, -math.inf, math.nan], dtype=torch.bfloat16)
    options: dict[str, Any] = {"rounding_seed": 1, "step": [torch.tensor(1.0)], "offsets": [0]}
    ops.sparse_sgd_([p], [p * 0], [torch.arange(3)], [], [0], 0.0, 0.0, 0.0, 0.0, False, False, **options)
    assert p.isnan().all()  # inf - 0 * nan
    p = torch.tensor([math.inf, -math.inf], dtype=torch.bfloat16)
    grad = torch.zeros(2, dtype=torch.bfloat16)
    ops.sparse_sgd_([p], [grad], [torch.arange(2)], [], [0], 0.1, 0.0, 0.0, 0.0, False, False, **options)
    assert p.tolist() == [math.inf, -math.inf]


def test_hundreds_of_tensors_give_the_same_bits_on_any_number_of_threads(threads: Any) -> None:
    shapes = [(n % 90, 11) for n in range(300)] + [(), (50_000,)]
    start, grads = [torch.randn(s) for s in shapes], [torch.randn(s) for s in shapes]
    index = [torch.arange(0, t.numel(), 2) for t in start]
    answers = []
    for count in (1, 2, 8):
        threads(count)
        params = [t.clone() for t in start]
        moments = [[torch.zeros(i.numel()) for i in index] for _ in range(3)]
        for step in (1.0, 2.0):
            counts = [torch.tensor(step)] * len(params)
            ops.sparse_adam_(
                params, grads, index, *moments, counts, **HYPER, decoupled=True, amsgrad=True, maximize=False
            )
        answers.append(torch.cat([t.reshape(-1) for t in (*params, *moments[0], *moments[1])]))
    assert answers[0].equal(answers[1])
    assert answers[0].equal(answers[2])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"grad": [torch.ones(4)]}, r"param\[0\] has shape \(3\) and grad\[0\] has shape \(4\)"),
        ({"grad": [torch.ones(3)], "gathered": True}, "one value for each of 2 indices, got 3"),
        ({"exp_avg": [torch.zeros(3)]}, r"exp_avg\[0\] has 3 elements for 2 indices"),
        ({"exp_avg_sq": [torch.zeros(2).double()]}, r"exp_avg_sq\[0\] must be contiguous float32"),
        ({"max_exp_avg_sq": [torch.zeros(2)]}, "must be empty without amsgrad"),
        ({"amsgrad": True}, "param has 1 entries and max_exp_avg_sq has 0"),
        ({"step": [torch.tensor(0.0)]}, r"step\[0\] counts from 1, got 0"),
        ({"step": [torch.tensor(1)]}, r"step\[0\] must be float32 or float64"),
        ({"step": [torch.ones(2)]}, r"step\[0\] must have one element, got 2"),
        ({"step": []}, "param has 1 entries and step has 0"),
        ({"beta1": 1.0}, r"must be in \[0, 1\), got 1 and"),
        ({"eps": math.inf}, "must be finite"),
        ({"lr_tensor": torch.tensor(math.nan)}, "lr must be finite, got nan"),
        ({"rounding_seed": 1}, "param has 1 entries and offsets has 0"),
        ({"rounding_seed": 1, "offsets": [-1]}, r"offsets\[0\] must be in"),
    ],
)
def test_bad_input_is_refused_and_nothing_changes(changed: dict[str, Any], words: str) -> None:
    p = torch.ones(3)
    arguments: dict[str, Any] = {
        "grad": [torch.ones(3)],
        "indices": [torch.tensor([0, 2])],
        "exp_avg": [torch.zeros(2)],
        "exp_avg_sq": [torch.zeros(2)],
        "max_exp_avg_sq": [],
        "step": [torch.tensor(1.0)],
        **HYPER,
        "decoupled": True,
        "amsgrad": False,
        "maximize": False,
        **changed,
    }
    with pytest.raises(RuntimeError, match=words):
        ops.sparse_adam_([p], **arguments)
    assert p.equal(torch.ones(3))
    assert not any(bool(t.any()) for t in arguments["exp_avg"])


def test_the_op_passes_opcheck() -> None:
    moments = [[torch.zeros(2)] for _ in range(3)]
    torch.library.opcheck(
        torch.ops.fgunlearn.sparse_adam_,
        (
            *([torch.randn(9)], [torch.randn(9)], [torch.tensor([1, 3])], *moments, [torch.tensor(1.0)]),
            *(0.1, 0.9, 0.99, 1e-8, 0.1, True, True, False, None, None, None, False, 7, [0]),
        ),
    )
