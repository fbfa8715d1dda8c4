"""docs/scale.md is what its script makes of the formulas and of the committed measurements."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


def test_every_figure_of_the_page_is_the_plan_s_or_measured(script: Callable[[str], ModuleType]) -> None:
    scale_page = script("scale_page")
    page = PAGE.read_text()
    assert scale_page.rendered(page) == page
    with pytest.raises(ValueError, match=r"docs/scale\.md has 0 marks '<!-- figures: memory -->'"):
        scale_page.rendered("nothing")


def test_measurements_are_shown_small_models_first_with_what_did_not_fit(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale_page = script("scale_page")
    monkeypatch.setattr(scale_page, "RESULTS", tmp_path)
    assert scale_page.measured() == "**Not measured yet.**"
    assert scale_page.machine() == "No measurement is committed."

    def phases(*peaks: int) -> list[dict[str, object]]:
        names = ("make the model", "forward and backward", "select")
        return [{"phase": name, "seconds": 1.5, "peak": peak} for name, peak in zip(names, peaks, strict=False)]

    for parameters in (10**9, 10**8):
        found = {
            "machine": {"processor": "P", "cores": 2, "memory_gib": 8.0, "torch": "2"},
            "date": "2026-01-01",
            "model": {"parameters": parameters, "layers": 2, "width": 1000, "largest_tensor": 10**7},
            "dtype": "bf16",
            "weights": 2 * parameters,
            "batch": 1,
            "length": 16,
            "k": 1000,
            "target_met": True,
            "runs": [
                {
                    "way": "dense",
                    "phases": phases(2 * parameters, 3 * parameters, 8 * parameters),
                    "peak": 8 * parameters,
                    "beside_the_pass": 5 * parameters,
                },
                {"way": "adamw", "phases": phases(2 * parameters, 3 * parameters), "failed": "no memory"},
            ],
        }
        (tmp_path / f"scale-{parameters}.json").write_text(json.dumps(found))
    lines = scale_page.measured().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 1e+08", "| 1e+08", "| 1e+09", "| 1e+09"]
    assert "did not fit: no memory" in lines[3]
    assert lines[4].split(" | ")[2:6] == ["1,907", "2,861", "7,629", "4,768"]
    assert lines[4].endswith("| 1.5 |")
    assert "2 cores" in scale_page.machine()
    assert scale_page.machine().replace("\n", " ").endswith("streaming below weights, activations and 1 GiB: met.")
