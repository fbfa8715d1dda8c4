from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

Script = Callable[[str], ModuleType]


def test_every_registered_op_has_a_case_that_runs(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    case = script("sanitizer_case")
    status = case.main(["--device", "cpu"])
    out = capsys.readouterr().out
    assert status == 0, out
    assert out.splitlines()[-1] == "every op ran"
    assert case.registered() == set(case.CASES)


def test_an_op_that_fails_or_has_no_case_is_said_to(
    script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = script("sanitizer_case")

    def broken(_: object) -> list[torch.Tensor]:
        raise RuntimeError("out of range")

    monkeypatch.setitem(case.CASES, "rms", broken)
    assert case.main(["--device", "cpu", "--only", "rms"]) == 1
    assert "rms: RuntimeError: out of range" in capsys.readouterr().out
    monkeypatch.delitem(case.CASES, "rms")
    assert case.main(["--device", "cpu", "--only", "sparse_add"]) == 1
    out = capsys.readouterr().out
    assert "rms: no case for this op" in out
    assert "every op ran" not in out


def test_results_are_compared_exactly_where_they_are_indices(script: Script) -> None:
    differs = script("sanitizer_case").differs
    assert not differs(torch.tensor([1.0 + 1e-7]), torch.tensor([1.0]))
    assert differs(torch.tensor([1.1]), torch.tensor([1.0]))
    assert differs(torch.tensor([1, 2]), torch.tensor([1, 3]))
    assert differs(torch.tensor([1], dtype=torch.int32), torch.tensor([1]))
    assert differs(torch.tensor([1.0]), torch.tensor([1.0, 1.0]))
    assert differs(torch.tensor([torch.nan]), torch.tensor([1.0]))
