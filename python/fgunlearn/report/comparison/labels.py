"""Where labels go, so that none lies on another, on a mark or beyond the edge."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_RINGS = 24
_NEAR = 72
"""Centres of the first rings: a label further off is worse than one on a line."""


@dataclass(frozen=True)
class Box:
    """A rectangle; y grows downward or upward, it makes no difference."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """Whether they have more in common than an edge."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        """Whether the other lies inside."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )

    def crossed(self, x1: float, y1: float, x2: float, y2: float) -> bool:
        """Whether the line between two points goes through it, to a few px."""
        steps = max(int(math.hypot(x2 - x1, y2 - y1) / 3.0), 1)
        return any(
            self.left < x1 + (x2 - x1) * i / steps < self.right and self.top < y1 + (y2 - y1) * i / steps < self.bottom
            for i in range(steps + 1)
        )


@dataclass(frozen=True)
class Label:
    """The size of a text, and where it may go, the best place first: centres."""

    width: float
    height: float
    centres: Sequence[tuple[float, float]]
    point: tuple[float, float] | None = None
    """What it belongs to, where a line leads to it from afar."""

    def box(self, centre: tuple[float, float]) -> Box:
        """What it covers there."""
        x, y = centre
        return Box(x - self.width / 2, y - self.height / 2, x + self.width / 2, y + self.height / 2)


def around(
    x: float, y: float, width: float, height: float, reach: float, unit: float = 1.0
) -> list[tuple[float, float]]:
    """Centres for a label of a point: beside it first, then all around, further and further off.

    Args:
        x, y: the point.
        width, height: of the label.
        reach: the radius of the point's mark.
        unit: px that a step outward takes 12 of: more on a drawing with more px per letter.
    """
    centres = []
    for ring in range(_RINGS):
        gap = reach + unit * (3.0 + 12.0 * ring)
        turns = 8 if ring == 0 else 16
        # Right, left, above, below before the corners: an order that is the same every time.
        for turn in sorted(range(turns), key=lambda t: (t % (turns // 2) != 0, t % (turns // 4) != 0, t)):
            angle = 2.0 * math.pi * turn / turns
            dx, dy = math.cos(angle), math.sin(angle)
            centres.append((x + dx * (gap + width / 2), y + dy * (gap + height / 2)))
    return centres


def placed(
    labels: Iterable[Label], taken: Sequence[Box], lines: Sequence[Box], bounds: Box
) -> list[tuple[float, float] | None]:
    """A centre for every label, in their order, so that no two touch; None for one that has no free place left.

    Args:
        labels: those that come first choose first.
        taken: what neither a label nor the line that leads to one may cover: marks.
        lines: what a label covers only where it can't go elsewhere.
        bounds: what every label stays inside.
    """
    boxes = list(taken)
    leaders: list[tuple[float, float, float, float]] = []
    centres: list[tuple[float, float] | None] = []
    for label in labels:
        apart = [c for c in label.centres if _is_apart(label.box(c), boxes, bounds)]
        free = [c for c in apart if _is_uncrossed(label, c, boxes, leaders)]
        clear = (c for c in free if c in label.centres[:_NEAR] and not _covers(label.box(c), lines))
        centre = next(itertools.chain(clear, free, apart), None)
        centres.append(centre)
        if centre is not None:
            boxes.append(label.box(centre))
            if label.point is not None:
                leaders.append((*label.point, *nearest(label.box(centre), label.point)))
    return centres


def _covers(box: Box, others: Sequence[Box]) -> bool:
    return any(box.overlaps(other) for other in others)


def _is_apart(box: Box, boxes: Sequence[Box], bounds: Box) -> bool:
    return bounds.holds(box) and not _covers(box, boxes)


def _is_uncrossed(
    label: Label,
    centre: tuple[float, float],
    boxes: Sequence[Box],
    leaders: Sequence[tuple[float, float, float, float]],
) -> bool:
    """Whether no line to a label goes through another, nor through a mark but its own."""
    box = label.box(centre)
    if any(box.crossed(*leader) for leader in leaders):
        return False
    if label.point is None:
        return True
    x, y = label.point
    own = Box(x - 1e-6, y - 1e-6, x + 1e-6, y + 1e-6)
    line = (x, y, *nearest(box, label.point))
    return not any(other.crossed(*line) for other in boxes if not other.overlaps(own))


def nearest(box: Box, point: tuple[float, float]) -> tuple[float, float]:
    """The box's point that is nearest to another: where a line to it ends."""
    return min(max(point[0], box.left), box.right), min(max(point[1], box.top), box.bottom)
