"""Spearman's rank correlation, which scipy computes."""

from __future__ import annotations

from collections.abc import Sequence


def check_scipy() -> None:
    """That scipy can be imported.

    Raises:
        ImportError: it can't; the message says what to install.
    """
    try:
        import scipy.stats  # noqa: F401
    except ImportError as error:
        raise ImportError("rank correlations need scipy: pip install 'fgunlearn[eval]'") from error


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """In [-1, 1]; values that are equal but for rounding share a rank; NaN where all of a or all of b are alike."""
    a, b = ([round(value, 12) for value in values] for values in (a, b))
    if len(set(a)) < 2 or len(set(b)) < 2:
        return float("nan")
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)
