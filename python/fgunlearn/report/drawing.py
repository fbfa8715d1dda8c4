"""How figures are drawn and written: one look, whatever the user's own settings are, and no pyplot."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgunlearn.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#7f7f7f"
"""Of Okabe and Ito's palette, apart for any kind of colour vision."""

SERIES = (BLUE, ORANGE, GREEN, "#cc79a7", "#e69f00", "#56b4e9")

_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10.0,
    "figure.facecolor": "white",
    "font.size": 9.0,
    "lines.linewidth": 1.2,
    "svg.hashsalt": "fgunlearn",  # the ids inside an SVG file are random without one
}
_PIXELS_PER_INCH = 150


def check_matplotlib() -> None:
    """That matplotlib can be imported.

    Raises:
        ImportError: it can't; the message says what to install.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'fgunlearn[report]'") from error


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Within the block matplotlib has this package's style, and not the user's.

    Raises:
        ImportError: there is no matplotlib; the message says what to install.
    """
    check_matplotlib()
    from matplotlib import style

    with style.context(["default", _STYLE]):
        yield


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure as PNG or SVG, by the suffix, replacing the file at once.

    The bytes hold no date and no random number: the same figure gives the same file, for one version of matplotlib.

    Raises:
        ValueError: another suffix.
        OSError: the file can't be written; one that was there is as it was.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".svg"):
        raise ValueError(f"path must end in .png or .svg, got {os.fspath(path)!r}")
    metadata = {"Software": None} if suffix == ".png" else {"Date": None, "Creator": None}
    with drawing(), replacing(path) as temporary:
        figure.savefig(temporary, format=suffix[1:], dpi=_PIXELS_PER_INCH, metadata=metadata)
