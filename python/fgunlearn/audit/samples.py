"""Which samples: a hash of each and of the set, from which nobody who has not the sample can read it.

A sample is its tensors' values at one row. Its message is a line of canonical JSON that names each tensor with dtype
and shape of the row, ``{"x":{"dtype":"F32","shape":[8,8]},"y":{"dtype":"I64","shape":[]}}``, a line feed, and the bytes
of the rows in the order of the names, little-endian. Its hash is HMAC-SHA-256 of the message under a salt of 32 random
bytes, or plainly SHA-256 where there is none.

A plain hash hides nothing that can be guessed: whoever can list the candidates (all birth dates, all images of 8 x 8
with few grey levels, a customer table that leaked) hashes them all and looks which are there. With the salt, which is
not in the document, only those who hold it can; once it is destroyed, nobody can.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgunlearn.canonical_json import canonical

if TYPE_CHECKING:
    from torch import Tensor

    from fgunlearn.batches import Loader

SALT_BYTES = 32
SALTED, PLAIN = "HMAC-SHA-256", "SHA-256"


def new_salt() -> bytes:
    """32 bytes from the operating system's generator, to be kept apart from the record."""
    return secrets.token_bytes(SALT_BYTES)


def write_salt(path: Path, salt: bytes) -> None:
    """Writes a salt as hexadecimal text, to be read by its owner alone.

    Raises:
        OSError: the file is there already, or can't be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{salt.hex()}\n")
        file.flush()
        os.fsync(file.fileno())


def read_salt(path: Path, what: str) -> bytes:
    """What :func:`write_salt` wrote.

    Args:
        path: of the file.
        what: named in errors, such as an option.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    try:
        text = path.read_bytes().strip()
    except OSError as error:
        raise ValueError(f"{what}: can't read {path}: {error.strerror}") from error
    if re.fullmatch(rb"[0-9a-fA-F]{64}", text) is None:
        raise ValueError(f"{what}: {path} must hold a salt, {2 * SALT_BYTES} hexadecimal digits")
    return bytes.fromhex(text.decode())


def sample_hashes(parts: Mapping[str, Tensor], salt: bytes | None) -> list[str]:
    """The hash of every row, hexadecimal, in the rows' order.

    Args:
        parts: by name what a sample is made of, such as "x" and "y": tensors with one row per sample.
        salt: 32 secret bytes; None for plain hashes, see :mod:`fgunlearn.audit.samples` on what these give away.

    Raises:
        TypeError: a part that is no tensor, or of a dtype that safetensors does not have.
        ValueError: no part, rows that differ in number, a salt of another length.
    """
    from fgunlearn.audit.fingerprints import dtype_of, rows_of

    check_salt(salt)
    names = sorted(parts)
    about = {name: {"dtype": dtype_of(parts[name], name), "shape": list(parts[name].shape[1:])} for name in names}
    if not names:
        raise ValueError("a sample must have a part, got none")
    for name in names:
        if parts[name].dim() == 0 or len(parts[name]) != len(parts[names[0]]):
            raise ValueError(
                f"{name!r} must have one row per sample like {names[0]!r}, got shapes {tuple(parts[name].shape)} and "
                f"{tuple(parts[names[0]].shape)}"
            )
    head = canonical(about) + b"\n"
    rows = [rows_of(parts[name]) for name in names]
    messages = (head + b"".join(part[i].tobytes() for part in rows) for i in range(len(rows[0])))
    if salt is None:
        return [hashlib.sha256(message).hexdigest() for message in messages]
    return [hmac.digest(salt, message, "sha256").hex() for message in messages]


def check_salt(salt: bytes | None) -> None:
    """Refuses what is no salt.

    Raises:
        TypeError, ValueError: not bytes; of another length than 32.
    """
    if salt is None:
        return
    if not isinstance(salt, bytes):
        raise TypeError(f"salt must be bytes or None, got {type(salt).__name__}")
    if len(salt) != SALT_BYTES:
        raise ValueError(f"salt must be {SALT_BYTES} bytes long, got {len(salt)}")


def set_hash(hashes: Iterable[str]) -> str:
    """SHA-256 of the hashes in ascending order, each as hexadecimal text with a line feed after it."""
    return hashlib.sha256("".join(f"{each}\n" for each in sorted(hashes)).encode()).hexdigest()


def hashes_of(loader: Loader, salt: bytes | None, argument: str) -> list[str]:
    """The hashes of all samples of a loader, in its order.

    Args:
        loader: batches ``(x, y)`` of tensors, hashed as the parts "x" and "y"; or mappings of tensors, by their names.
        salt: as for :func:`sample_hashes`.
        argument: named in errors.

    Raises:
        TypeError: batches of another form.
        ValueError: as :func:`sample_hashes`; no sample.
    """
    found = []
    for batch in loader:
        try:
            found += sample_hashes(_parts(batch), salt)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{argument}: {error}") from error
    if not found:
        raise ValueError(f"{argument} has no sample")
    return found


def _parts(batch: Any) -> Mapping[str, Tensor]:
    if isinstance(batch, Mapping):
        return batch
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return {"x": batch[0], "y": batch[1]}
    raise TypeError(f"a batch must be (x, y) or a mapping of tensors to be hashed, got {type(batch).__name__}")


def data_of(
    forget: Loader | Sequence[Any],
    retain: Loader | None = None,
    heldout: Loader | None = None,
    *,
    salt: bytes | None,
    steered: bool | None = None,
) -> dict[str, Any]:
    """What a record says about data: hashes and counts, and nothing that can be read back.

    Args:
        forget: the forgotten samples, batches as for :func:`hashes_of`, each sample once.
        retain: the remaining ones, likewise; read to the end, so not a loader that leaves an incomplete batch out.
        heldout: samples that were never trained on, on which figures are measured.
        salt: as for :func:`sample_hashes`.
        steered: whether unlearning looked at ``heldout`` as well: figures on it then flatter.

    Returns:
        "hash", its name; "salt_sha256", which tells the right salt and nothing about it; "forgotten" with "count",
        "samples" (ascending) and "set"; "retained" and "heldout" with "count" and "set", or None; "copies", how many of
        the remaining samples are the same as a forgotten one, or None. "heldout" has "copies" too, how many of it are
        in the training data, None without ``retain``, and "seen_by_unlearning", which is ``steered``.

    Raises:
        TypeError, ValueError: as :func:`hashes_of`.
    """
    forgotten = hashes_of(forget, salt, "forget")
    kept = None if retain is None else hashes_of(retain, salt, "retain")
    unseen = None if heldout is None else hashes_of(heldout, salt, "heldout")
    asked, trained = set(forgotten), {*forgotten, *(kept or ())}
    return {
        "hash": PLAIN if salt is None else SALTED,
        "salt_sha256": None if salt is None else hashlib.sha256(salt).hexdigest(),
        "forgotten": {"count": len(forgotten), "samples": sorted(forgotten), "set": set_hash(forgotten)},
        "retained": None if kept is None else {"count": len(kept), "set": set_hash(kept)},
        "heldout": None
        if unseen is None
        else {
            "count": len(unseen),
            "set": set_hash(unseen),
            "copies": None if kept is None else sum(each in trained for each in unseen),
            "seen_by_unlearning": steered,
        },
        "copies": None if kept is None else sum(each in asked for each in kept),
    }
