"""Ed25519 signatures (RFC 8032) of records, by the package ``cryptography``, with keys from PEM files."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fgunlearn.audit.document import AuditRecord

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ALGORITHM = "Ed25519"


def check_cryptography() -> None:
    """That signatures can be made and checked here.

    Raises:
        ImportError: the package is missing; the message says how to get it.
    """
    try:
        import cryptography.hazmat.primitives.asymmetric.ed25519  # noqa: F401
    except ImportError as error:
        raise ImportError("signatures need the package cryptography: pip install 'fgunlearn[sign]'") from error


class SigningKey:
    """A private key, read before long work begins, to sign what comes out of it.

    Args:
        path: PEM file (PKCS #8), as ``openssl genpkey -algorithm ed25519`` writes it.
        what: named in errors, such as an option.
        password: of an encrypted file.

    Raises:
        ImportError: the package cryptography is missing.
        ValueError: no such file, no private key in it, one of another kind, a missing or wrong password.
    """

    def __init__(self, path: Path, what: str = "key", password: bytes | None = None) -> None:
        check_cryptography()
        self._key = _private(_read(path, what), f"{what}: {path}", password)

    def sign(self, record: AuditRecord) -> AuditRecord:
        """The record with a signature of its canonical bytes; one that it had is replaced.

        Raises:
            ValueError: the record was altered: its hash is not the one it states.
        """
        if not record.intact:
            raise ValueError("the record was altered after its hash was taken: it is not signed")
        signature = {
            "algorithm": ALGORITHM,
            "key_sha256": _identity(self._key.public_key()),
            "value": self._key.sign(record.canonical()).hex(),
        }
        return dataclasses.replace(record, signature=signature)


def sign(record: AuditRecord, key: Path, password: bytes | None = None) -> AuditRecord:
    """The record, signed by the private key of a PEM file; see :class:`SigningKey`."""
    return SigningKey(Path(key), password=password).sign(record)


def wrong_signature(record: AuditRecord, key: Path, what: str = "key") -> str | None:
    """Why the record's signature is not one of its content by this public key; None where it is.

    Args:
        record: signed or not.
        key: PEM file (SubjectPublicKeyInfo), as ``openssl pkey -pubout`` writes it.
        what: named in errors, such as an option.

    Raises:
        ImportError: the package cryptography is missing.
        ValueError: no such file, no public key in it, or one of another kind.
    """
    check_cryptography()
    from cryptography.exceptions import InvalidSignature

    public = _public(_read(key, what), f"{what}: {key}")
    signature = record.signature
    if signature is None:
        return "the record has no signature"
    if signature.get("algorithm") != ALGORITHM:
        return f"it is signed by {signature.get('algorithm')!r:.40}, not {ALGORITHM}"
    if signature.get("key_sha256") != _identity(public):
        return f"it names another key: {signature.get('key_sha256')!r:.80}, where this one is {_identity(public)}"
    try:
        if re.fullmatch("[0-9a-f]{128}", signature["value"]) is None:
            raise InvalidSignature
        public.verify(bytes.fromhex(signature["value"]), record.canonical())
    except InvalidSignature:
        return "it is not a signature of this content by this key"
    return None


def _identity(key: Ed25519PublicKey) -> str:
    """Hexadecimal SHA-256 of the key's 32 bytes: a name for it, which nobody should take for the key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{what}: can't read {path}: {error.strerror}") from error


def _private(pem: bytes, what: str, password: bytes | None) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password)
    except TypeError as error:  # a password where there should be none, or the other way round
        need = "is encrypted: give its password" if password is None else "is not encrypted, but a password is given"
        raise ValueError(f"{what} {need}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        wrong = "" if password is None else ", or the password is wrong"
        raise ValueError(f"{what} holds no private key in PEM form{wrong}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{what} must hold an {ALGORITHM} key, found {_kind(key)}")
    return key


def _public(pem: bytes, what: str) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        private = ", but a private one; verifying takes the public key" if b"PRIVATE KEY" in pem else ""
        raise ValueError(f"{what} holds no public key in PEM form{private}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{what} must hold an {ALGORITHM} key, found {_kind(key)}")
    return key


def _kind(key: object) -> str:
    return type(key).__name__.removesuffix("PrivateKey").removesuffix("PublicKey")
