"""Pages whose figures stand between marks, each on its own line: ``<!-- figures: NAME -->`` and ``<!-- end -->``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping


def rendered(text: str, figures: Mapping[str, Callable[[], str]], page: str) -> str:
    """``text`` with what stands between each figure's marks written anew; ValueError where a mark is missing."""
    for name, figure in figures.items():
        marks = re.compile(rf"(<!-- figures: {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        text, count = marks.subn(lambda found, figure=figure: found[1] + figure() + found[2], text)
        if count != 1:
            raise ValueError(f"{page} has {count} marks '<!-- figures: {name} -->' ... '<!-- end -->', expected one")
    return text
