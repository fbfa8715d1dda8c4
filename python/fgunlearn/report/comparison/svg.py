"""Drawings as inline SVG: colours come from the page's style by class, so that one drawing does for dark and light."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
SMALL, NORMAL = 11.0, 12.0
"""Font sizes, px; the page's style has the same."""

_NARROW, _WIDE = "iljtfrI.,:;'|![]()- ", "mwMW%@\N{MULTIPLICATION SIGN}+=_"


def text_width(text: str, size: float = NORMAL, bold: bool = False) -> float:
    """The width of a text, estimated from above for common sans-serif fonts: the page's font is not known here."""
    return (
        (1.13 if bold else 1.0)
        * size
        * sum(0.4 if c in _NARROW else 0.9 if c in _WIDE else 0.72 if c.isupper() else 0.62 for c in text)
    )


def fitting(text: str, width: float, size: float = NORMAL, bold: bool = False) -> str:
    """As much of the beginning as fits, with an ellipsis where something is left out."""
    if text_width(text, size, bold) <= width:
        return text
    kept = text
    while kept and text_width(kept + ELLIPSIS, size, bold) > width:
        kept = kept[:-1]
    return kept.rstrip() + ELLIPSIS


class Drawing:
    """An SVG element in the making.

    Args:
        width, height: px.
        name: unique in the page; letters, digits and hyphens.
        title: what is shown, for those who can't see it.
        description: what is to be seen in it, for the same.
        style: classes of the element.
    """

    def __init__(self, width: float, height: float, name: str, title: str, description: str, style: str = "") -> None:
        self.width, self.height = width, height
        self._name, self._style = name, style
        self._about = (title, description)
        self._parts: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """A straight line."""
        self._parts.append(f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def rect(self, x: float, y: float, width: float, height: float, style: str, tip: str | None = None) -> None:
        """A rectangle; a tip is shown by the pointer."""
        place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
        self._parts.append(f'<rect class="{style}" {place}>{_tip(tip)}</rect>')

    def path(self, points: Sequence[tuple[float, float]], style: str, closed: bool = False) -> None:
        """A line through points, or the area that it encloses."""
        if points:
            course = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            self._parts.append(f'<path class="{style}" d="M{course}{"Z" if closed else ""}"/>')

    def text(
        self, x: float, y: float, text: str, style: str = "", anchor: str = "start", tip: str | None = None
    ) -> None:
        """One line of text on the baseline y."""
        classes = " ".join(filter(None, (style, {"middle": "mid", "end": "end"}.get(anchor))))
        given = f' class="{classes}"' if classes else ""
        self._parts.append(f'<text{given} x="{x:.1f}" y="{y:.1f}">{escape(text)}{_tip(tip)}</text>')

    def mark(self, shape: str, x: float, y: float, style: str, tip: str | None = None, size: float = 5.0) -> None:
        """A "circle", "diamond", "square", "triangle" or "cross" around a point."""
        s = size
        if shape == "circle":
            self._parts.append(f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{s:.1f}">{_tip(tip)}</circle>')
            return
        course = {
            "diamond": [(x, y - 1.25 * s), (x + 1.25 * s, y), (x, y + 1.25 * s), (x - 1.25 * s, y)],
            "square": [(x - s, y - s), (x + s, y - s), (x + s, y + s), (x - s, y + s)],
            "triangle": [(x, y - 1.2 * s), (x + 1.15 * s, y + 0.9 * s), (x - 1.15 * s, y + 0.9 * s)],
        }.get(shape)
        if course is None:
            d = f"M{x - s:.1f} {y - s:.1f}L{x + s:.1f} {y + s:.1f}M{x - s:.1f} {y + s:.1f}L{x + s:.1f} {y - s:.1f}"
        else:
            d = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in course) + "Z"
        self._parts.append(f'<path class="{style}" d="{d}">{_tip(tip)}</path>')

    def markup(self) -> str:
        """The element, to stand in an HTML page."""
        title, description = (escape(text) for text in self._about)
        head = (
            f'<svg class="{self._style}" role="img" aria-labelledby="{self._name}-t {self._name}-d" '
            f'viewBox="0 0 {self.width:.0f} {self.height:.0f}" width="{self.width:.0f}" height="{self.height:.0f}">'
            f'<title id="{self._name}-t">{title}</title><desc id="{self._name}-d">{description}</desc>'
        )
        return head + "".join(self._parts) + "</svg>"


def _tip(text: str | None) -> str:
    return "" if text is None else f"<title>{escape(text)}</title>"
