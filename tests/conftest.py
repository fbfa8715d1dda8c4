from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import fgunlearn as fg
from command_line import Run
from fgunlearn.cli import main

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``cuda`` skip where there is no device or no CUDA library, and say which."""
    if item.get_closest_marker("cuda") is None:
        return
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: torch.cuda.is_available() is False")
    info = fg.build_info()
    if info["cuda_library"] is None:
        pytest.skip(f"fgunlearn has no CUDA library: {info['cuda_error'] or 'it was built without CUDA'}")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a file of scripts/ by its name without .py, as running it would."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # dataclasses look there
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process: exit status, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fgunlearn", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        output = capsys.readouterr()
        return status, output.out, output.err

    return call


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def model() -> nn.Module:
    """A small classifier with batch norm, dropout, and a frozen layer."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4 * 36, 10)
    )
    made.append(nn.Linear(10, 10))
    made[6].requires_grad_(False)
    return made


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 1, 8, 8, generator=generator), torch.randint(0, 10, (n,), generator=generator))
        for n in (16, 16, 8)
    ]


@pytest.fixture
def state_of() -> Callable[[nn.Module], dict[str, Tensor]]:
    """A copy of everything a model holds: parameters, buffers, gradients, modes."""

    def take(module: nn.Module) -> dict[str, Tensor]:
        held = {name: value.detach().clone() for name, value in module.state_dict().items()}
        for name, parameter in module.named_parameters():
            held[f"{name}.grad"] = torch.tensor([]) if parameter.grad is None else parameter.grad.clone()
        for name, part in module.named_modules():
            held[f"{name}.training"] = torch.tensor(part.training)
        return held

    return take


@pytest.fixture
def assert_same() -> Callable[[dict[str, Tensor], dict[str, Tensor]], None]:
    """Bit for bit, NaN included."""

    def check(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
        assert before.keys() == after.keys()
        for name, was in before.items():
            now = after[name]
            assert was.dtype == now.dtype, name
            assert (
                was.contiguous().reshape(-1).view(torch.uint8).equal(now.contiguous().reshape(-1).view(torch.uint8))
            ), name

    return check
