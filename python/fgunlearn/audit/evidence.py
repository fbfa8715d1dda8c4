"""What a record is held against, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn

    from fgunlearn.batches import Loader
    from fgunlearn.selection import Selection

State = Literal["verified", "differs", "not checked"]

_NAMED = 3  # differences that a check names; of more it tells the number


@dataclass(frozen=True)
class Check:
    """One claim of a record, and what came of it.

    Attributes:
        claim: what the record says, in a few words.
        state: "verified", "differs" or "not checked".
        detail: what differs, why it was not checked, or what it was held against.
    """

    claim: str
    state: State
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a record is held against; each part may be missing.

    Attributes:
        base: checkpoint before, a safetensors file or a sharded one's index.
        result: checkpoint after.
        patch: what a forget patch says, see :func:`fgunlearn.audit.patch_hashes`.
        forget: the forgotten samples, batches as for :func:`fgunlearn.audit.data_of`, in the order of their rows.
        rows: their names in messages, such as row numbers, one per sample.
        retain: the remaining samples.
        heldout: those the figures were measured on.
        salt: of the hashes.
        selection: the selected coordinates.
        base_model: the model with base's weights, for the figures.
        result_model: with those of the result.
        retrained: the reference of relearning.
        gan: the SPD-GAN of the unlearning degree.
        gan_sha256: of its file.
        key: public key, a PEM file.
    """

    base: Path | None = None
    result: Path | None = None
    patch: Mapping[str, Any] | None = None
    forget: Loader | None = None
    rows: Sequence[object] | None = None
    retain: Loader | None = None
    heldout: Loader | None = None
    salt: bytes | None = None
    selection: Selection | None = None
    base_model: nn.Module | None = None
    result_model: nn.Module | None = None
    retrained: nn.Module | None = None
    gan: Any = None
    gan_sha256: str | None = None
    key: Path | None = None


def checked(claim: str, differences: Iterable[str], detail: str = "") -> Check:
    """Verified where nothing differs."""
    found = list(differences)
    return Check(claim, "differs", _listed(found)) if found else Check(claim, "verified", detail)


def _listed(found: Sequence[str]) -> str:
    rest = len(found) - _NAMED
    return "; ".join(found[:_NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def short(value: object) -> str:
    """A value in a message, a hash by its first digits."""
    text = str(value)
    return f"{text[:12]}..." if isinstance(value, str) and len(text) == 64 else text[:80]
