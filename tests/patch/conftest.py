from __future__ import annotations

from pathlib import Path

import pytest

from checkpoints import Files, changed, random_tensor, write
from fgunlearn import patch


@pytest.fixture
def files(tmp_path: Path) -> Files:
    tensors = {"w": random_tensor("F32", (5, 7), 1), "b": random_tensor("BF16", (9,), 2), "n": random_tensor("I64", ())}
    base = write(tmp_path / "base.safetensors", tensors, {"format": "pt"})
    new = write(tmp_path / "new.safetensors", {**changed(tensors), "n": tensors["n"]}, {"format": "pt"})
    patch.create(base, new, tmp_path / "patch.safetensors")
    return Files(tmp_path, base, new, tmp_path / "patch.safetensors")
