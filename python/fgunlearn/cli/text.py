"""Text of unknown origin, as it is shown."""

from __future__ import annotations


def on_one_line(text: str) -> str:
    """With line feeds and what else would move the cursor spelled out: names in a file may be anything."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
