"""docs/patch-format.md and docs/deploying.md are what their script makes of the code and of committed measurements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).parents[2] / "docs"


def test_vector_and_figures_of_the_pages_are_the_code_s_and_measured(script: Callable[[str], ModuleType]) -> None:
    patch_page = script("patch_page")
    for name, rendered in (("patch-format.md", "rendered_format"), ("deploying.md", "rendered_deploying")):
        page = (DOCS / name).read_text()
        assert getattr(patch_page, rendered)(page) == page
