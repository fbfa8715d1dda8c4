"""A short run of the patch fuzzer under AddressSanitizer and UBSan; docs/results/patch-fuzz.json is a long one's."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

FILES = 6000


def _building() -> Any:
    spec = importlib.util.spec_from_file_location("building", Path(__file__).with_name("building.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


building = _building()
pytestmark = pytest.mark.skipif(
    building.compiler() is None, reason="no C++ compiler with the libraries of AddressSanitizer and UBSan"
)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built: Path = building.build(tmp_path_factory.mktemp("sanitized"))
    return built


def test_no_file_makes_the_patcher_leave_its_memory(module: Path, tmp_path: Path) -> None:
    done = building.run(module, "--files", str(FILES), "--seed", "1", "--keep", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stderr[-4000:]
    outcomes = json.loads(done.stdout)["outcomes"]
    assert sum(outcomes.values()) == FILES
    # Every way to make a file was tried, and some get past each check.
    for way in ("damaged", "resealed", "forged", "generated", "damaged_checkpoint", "arguments"):
        assert outcomes[f"{way}: refused"] > 0
    for outcome in (
        *("resealed: applied", "forged: applied", "generated: applied", "damaged_checkpoint: done", "arguments: done"),
        *("forged: refused for this checkpoint", "generated: refused for this checkpoint"),
    ):
        assert outcomes[outcome] > 0


def test_a_read_outside_would_be_seen(module: Path) -> None:
    done = building.run(module, "--files", "1", "--read-outside")
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
