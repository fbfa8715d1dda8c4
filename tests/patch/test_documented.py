"""The format page's reader, which shares no code with the package, and its test vector."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fgunlearn import patch

PAGE = (Path(__file__).parents[2] / "docs" / "patch-format.md").read_text()


@pytest.fixture(scope="module")
def reader() -> Any:
    found = re.search(r"<!-- reader -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    module = ModuleType("reader")
    exec(found[1], module.__dict__)
    return module


def test_the_page_s_reader_makes_of_a_checkpoint_what_the_package_does(reader: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    base = {
        "a": random.standard_normal((50, 40), np.float32),
        "b": np.arange(300, dtype=np.int64),
        "c": np.ones(3, "f2"),
    }
    new = {name: held.copy() for name, held in base.items()}
    new["a"].reshape(-1)[[0, 1, 130, 1999]] = [np.nan, -0.0, 7, 8]
    new["b"][299] = -1
    paths = base_file, new_file, made = tmp_path / "base", tmp_path / "new", tmp_path / "patch"
    save_file(base, base_file)
    save_file(new, new_file)
    patch.create(*paths)
    result = reader.changed(made.read_bytes(), base_file.read_bytes())
    assert result == {name: held.tobytes() for name, held in load_file(new_file).items()}
    back = reader.changed(made.read_bytes(), new_file.read_bytes(), back=True)
    assert back == {name: held.tobytes() for name, held in base.items()}
    with pytest.raises(ValueError, match="is not what the patch starts from"):
        reader.changed(made.read_bytes(), new_file.read_bytes())


def test_the_page_s_vector_is_read_and_does_what_the_page_says(
    reader: Any, script: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    patch_page = script("patch_page")
    found = re.search(r"`([0-9a-f]{64})`:\n\n```\n([0-9a-f\n]+)\n```", PAGE)
    assert found is not None
    held = bytes.fromhex(found[2].replace("\n", ""))
    parts, metadata = reader.tensors_of(held)
    assert metadata["sha256"] == found[1]
    assert json.loads(metadata["metadata"]) == {"strategy": "topk"}
    assert parts["bias.gaps"] == ("U8", [1], b"\x01")
    assert parts["weight.gaps"] == ("U8", [3], b"\x03\x88\x01")
    assert np.frombuffer(parts["weight.new"][2], "<f4").tolist() == [-0.5, 2.0]
    assert parts["bias.new"][2] == b"\x80\x3f"
    (tmp_path / "base").write_bytes(patch_page.BASE)
    (tmp_path / "patch").write_bytes(held)
    patch.apply(tmp_path / "base", tmp_path / "patch", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == patch_page.RESULT
    assert reader.changed(held, patch_page.BASE)["bias"] == b"\0\0\x80\x3f"
