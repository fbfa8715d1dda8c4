"""Ed25519 signatures: made and checked with PEM keys; and what is said where the package is missing."""

from __future__ import annotations

import builtins
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audited import Unlearned, with_other
from fgunlearn import audit
from fgunlearn.audit.signing import wrong_signature
from fgunlearn.canonical_json import indented

WHY = "the optional package cryptography is not installed (pip install 'fgunlearn[sign]')"


@pytest.fixture
def keys(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Makes a pair of PEM files, of Ed25519 or another kind."""
    pytest.importorskip("cryptography", reason=WHY)
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    def make(name: str = "key", kind: str = "ed25519", password: bytes | None = None) -> tuple[Path, Path]:
        key: Any = (
            ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
        )
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub.pem"
        encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        return private, public

    return make


def test_a_signed_record_is_known_by_its_key_and_the_content_stays(
    unlearned: Unlearned, keys: Callable[..., tuple[Path, Path]]
) -> None:
    private, public = keys()
    signed = audit.sign(unlearned.record, private)
    assert wrong_signature(signed, public) is None
    assert signed.sha256 == unlearned.record.sha256
    again = audit.AuditRecord.from_text(signed.text())
    assert again == signed
    checks = {check.claim: check for check in audit.verify(again, audit.Evidence(key=public))}
    assert checks["signature"].state == "verified"
    unkeyed = {check.claim: check for check in audit.verify(again)}["signature"]
    assert (unkeyed.state, unkeyed.detail) == ("not checked", "give --key, the public key that you trust")


def test_the_signature_is_plain_ed25519_of_the_canonical_bytes(
    unlearned: Unlearned, keys: Callable[..., tuple[Path, Path]]
) -> None:
    private, public = keys()
    signed = audit.sign(unlearned.record, private)
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    assert signed.signature is not None
    key: Any = load_pem_public_key(public.read_bytes())
    key.verify(bytes.fromhex(signed.signature["value"]), unlearned.record.canonical())  # raises if it is none


def test_whoever_alters_a_signed_record_and_hashes_it_anew_is_found_out(
    unlearned: Unlearned, keys: Callable[..., tuple[Path, Path]]
) -> None:
    private, public = keys()
    document = json.loads(audit.sign(unlearned.record, private).text())
    changed = with_other(document, ("data", "forgotten", "count"), 99)
    record = audit.AuditRecord.from_text(indented(changed))
    record = dataclasses.replace(record, sha256=record.digest)
    assert record.intact
    assert wrong_signature(record, public) == "it is not a signature of this content by this key"


def test_another_key_a_damaged_and_a_missing_signature_differ(
    unlearned: Unlearned, keys: Callable[..., tuple[Path, Path]]
) -> None:
    private, public = keys()
    _, other = keys("other")
    signed = audit.sign(unlearned.record, private)
    assert signed.signature is not None
    assert str(wrong_signature(signed, other)).startswith("it names another key: ")
    forged = dataclasses.replace(signed, signature=_with_key_of(signed, audit.sign(unlearned.record, keys("third")[0])))
    assert wrong_signature(forged, public) == "it is not a signature of this content by this key"
    own = signed.signature["value"]
    for value in ("00" * 64, "zz", "", own.upper(), f"{own} ", f"{own[:64]} {own[64:]}"):
        damaged = dataclasses.replace(signed, signature={**signed.signature, "value": value})
        assert wrong_signature(damaged, public) == "it is not a signature of this content by this key"
    rsa = dataclasses.replace(signed, signature={**signed.signature, "algorithm": "RSA"})
    assert wrong_signature(rsa, public) == "it is signed by 'RSA', not Ed25519"
    assert wrong_signature(unlearned.record, public) == "the record has no signature"
    stripped = {c.claim: c for c in audit.verify(unlearned.record, audit.Evidence(key=public))}
    assert stripped["signature"].state == "differs"


def _with_key_of(signed: audit.AuditRecord, other: audit.AuditRecord) -> dict[str, Any]:
    assert signed.signature is not None
    assert other.signature is not None
    return {**other.signature, "key_sha256": signed.signature["key_sha256"]}


def test_a_signature_is_replaced_and_an_altered_record_not_signed(
    unlearned: Unlearned, keys: Callable[..., tuple[Path, Path]]
) -> None:
    (private, _), (other, public) = keys(), keys("other")
    assert wrong_signature(audit.sign(audit.sign(unlearned.record, private), other), public) is None
    altered = dataclasses.replace(unlearned.record, sha256="0" * 64)
    with pytest.raises(ValueError, match="the record was altered after its hash was taken: it is not signed"):
        audit.sign(altered, private)


def test_an_encrypted_key_needs_its_password(unlearned: Unlearned, keys: Callable[..., tuple[Path, Path]]) -> None:
    private, public = keys(password=b"sesame")
    assert wrong_signature(audit.sign(unlearned.record, private, b"sesame"), public) is None
    with pytest.raises(ValueError, match=r"key: .*key\.pem is encrypted: give its password"):
        audit.sign(unlearned.record, private)
    with pytest.raises(ValueError, match="holds no private key in PEM form, or the password is wrong"):
        audit.sign(unlearned.record, private, b"simsim")
    with pytest.raises(ValueError, match="is not encrypted, but a password is given"):
        audit.sign(unlearned.record, keys("open")[0], b"sesame")


def test_what_is_no_such_key_is_refused(
    unlearned: Unlearned, keys: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    private, public = keys()
    curve_private, curve_public = keys("curve", "p-256")
    text = tmp_path / "text"
    text.write_text("no key")
    with pytest.raises(ValueError, match=r"key: .*text holds no private key in PEM form"):
        audit.sign(unlearned.record, text)
    with pytest.raises(ValueError, match="holds no private key in PEM form"):
        audit.sign(unlearned.record, public)
    with pytest.raises(ValueError, match=r"must hold an Ed25519 key, found"):
        audit.sign(unlearned.record, curve_private)
    with pytest.raises(ValueError, match=r"key: can't read .*nowhere"):
        audit.sign(unlearned.record, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"--key: .*text holds no public key in PEM form"):
        wrong_signature(unlearned.record, text, "--key")
    with pytest.raises(ValueError, match="but a private one; verifying takes the public key"):
        wrong_signature(unlearned.record, private)
    with pytest.raises(ValueError, match="must hold an Ed25519 key, found"):
        wrong_signature(unlearned.record, curve_public)


def test_without_the_package_the_error_says_what_to_install(
    unlearned: Unlearned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "cryptography":
            raise ImportError("No module named 'cryptography'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    for call in (
        lambda: audit.sign(unlearned.record, tmp_path / "key.pem"),
        lambda: audit.verify(unlearned.record, audit.Evidence(key=tmp_path / "key.pub.pem")),
    ):
        with pytest.raises(
            ImportError, match=r"signatures need the package cryptography: pip install 'fgunlearn\[sign\]'"
        ):
            call()
