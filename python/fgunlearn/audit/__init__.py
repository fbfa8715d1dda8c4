"""Records that answer for an unlearning: what was forgotten, by which change, with what effect; and their checks.

A record is a JSON document with its own hash and, if wanted, a signature. ``fgunlearn unlearn --audit`` writes one,
``fgunlearn audit verify`` holds one against what is at hand; docs/audit.md says what that proves and what it does not.
Nothing here imports torch but what looks at models and tensors.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fgunlearn.audit.document import AuditRecord
from fgunlearn.audit.evidence import Check, Evidence
from fgunlearn.audit.fingerprints import fingerprint
from fgunlearn.audit.making import of_patch, record
from fgunlearn.audit.patches import patch_hashes
from fgunlearn.audit.samples import data_of, new_salt, read_salt, sample_hashes, write_salt
from fgunlearn.audit.signing import SigningKey, sign
from fgunlearn.audit.verifying import verify

if TYPE_CHECKING:
    from fgunlearn.audit.measuring import RelearningOptions, degree, measured, relearned

_NEED_TORCH = ("RelearningOptions", "degree", "measured", "relearned")

if not TYPE_CHECKING:  # a type checker would take any name for one of these

    def __getattr__(name: str) -> Any:
        if name in _NEED_TORCH:
            return getattr(importlib.import_module(f"{__name__}.measuring"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AuditRecord",
    "Check",
    "Evidence",
    "RelearningOptions",
    "SigningKey",
    "data_of",
    "degree",
    "fingerprint",
    "measured",
    "new_salt",
    "of_patch",
    "patch_hashes",
    "read_salt",
    "record",
    "relearned",
    "sample_hashes",
    "sign",
    "verify",
    "write_salt",
]
