"""Every op once on the CPU against its specification, and every fake against what the op gives."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from cases import CASES, Case, assert_close, leaves, placed


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.mark.parametrize("seed", [0, 1])
def test_an_op_equals_its_specification(case: Case, seed: int) -> None:
    arguments = case.make(seed)
    expected = case.expected(placed(arguments, "cpu"))
    assert_close(case.run(placed(arguments, "cpu")), expected, case.tolerance)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_fake_has_the_ops_dtypes_and_sizes_on_the_inputs_device(case: Case, device: str) -> None:
    real = case.run(case.make(0))
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        returned = leaves(case.run(_faked(mode, case.make(0), device)))
    assert len(returned) == len(real)
    for fake, wanted in zip(returned, real, strict=True):
        assert fake.device.type == device
        assert fake.dtype == wanted.dtype
        assert fake.dim() == wanted.dim()
        assert all(not isinstance(a, int) or a == b for a, b in zip(fake.shape, wanted.shape, strict=True))


def _faked(mode: FakeTensorMode, nested: object, device: str) -> object:
    if isinstance(nested, torch.Tensor):
        return torch.empty_strided(nested.size(), nested.stride(), dtype=nested.dtype, device=device)
    return type(nested)(_faked(mode, part, device) for part in nested) if isinstance(nested, (list, tuple)) else nested


@pytest.mark.parametrize("name", ["topk_select_packed", "score_accumulate_topk_ fisher", "score_accumulate_topk_ each"])
def test_the_ops_that_select_pass_opcheck(name: str) -> None:
    case = CASES[name]
    torch.library.opcheck(getattr(torch.ops.fgunlearn, case.op), case.make(0), test_utils=case.opchecks)
