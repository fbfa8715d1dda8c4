"""Signatures on the command line, and what is said without the package for them."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from audit_commands import unlearn, verify
from command_line import Run, refused

WHY = "the optional package cryptography is not installed (pip install 'fgunlearn[sign]')"


@pytest.fixture
def keys(folder: Path) -> None:
    """key.pem and pub.pem, other.pem and other-pub.pem."""
    pytest.importorskip("cryptography", reason=WHY)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    for private, public in (("key.pem", "pub.pem"), ("other.pem", "other-pub.pem")):
        key = Ed25519PrivateKey.generate()
        Path(private).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        Path(f"locked-{private}").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"sesame"))
        )
        Path(public).write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def test_a_record_is_signed_when_it_is_made_or_later(run: Run, keys: None) -> None:
    assert run(*unlearn(relearn_steps=0, sign="key.pem"))[0] == 0
    assert run(*verify(key="pub.pem"))[0] == 0
    assert run(*verify(key="other-pub.pem"))[0] == 1
    status, out, _ = run("audit", "sign", "audit.json", "--key", "other.pem", "--out", "signed.json")
    assert status == 0
    assert "Signed by the key " in out
    assert run(*verify(path="signed.json", key="other-pub.pem"))[0] == 0
    assert run(*verify(key="pub.pem"))[0] == 0  # the first one is as it was
    Path("password").write_text("sesame\n")
    refused(run("audit", "sign", "audit.json", "--key", "locked-other.pem"), "--key", "encrypted")
    options = ("--key", "locked-other.pem", "--password-file", "password")
    assert run("audit", "sign", "audit.json", *options)[0] == 0
    assert run(*verify(key="other-pub.pem"))[0] == 0
    refused(run("audit", "sign", "audit.json", "--key", "other.pem", "--out", "other.pem"), "--out", "--key")
    refused(run(*verify(key="key.pem")), "--key", "takes the public key")
    refused(run(*verify(key="ids.txt")), "--key", "ids.txt", "no public key")
    refused(run("audit", "sign", "audit.json", "--key", "pub.pem"), "--key", "no private key")
    refused(run("audit", "sign", "audit.json", "--key", "key.pem", "--password-file", "no"), "--password-file", "no")
    text = Path("audit.json").read_text()
    Path("audit.json").write_text(text.replace('"data": 0', '"data": 1'))
    refused(run("audit", "sign", "audit.json", "--key", "key.pem"), "audit.json", "altered")


def test_a_signature_that_was_taken_away_is_missed(run: Run, keys: None) -> None:
    assert run(*unlearn(relearn_steps=0))[0] == 0
    status, out, _ = run(*verify(key="pub.pem"))
    assert status == 1
    assert "the record has no signature" in out


def test_without_cryptography_signing_is_refused_before_any_work(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(*unlearn(relearn_steps=0))[0] == 0
    Path("out.safetensors").unlink()
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "cryptography":
            raise ImportError("No module named 'cryptography'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    said = ("cryptography", "pip install 'fgunlearn[sign]'")
    refused(run(*unlearn(sign="key.pem")), *said)
    assert not Path("out.safetensors").exists()
    refused(run(*verify(key="pub.pem")), *said)
    refused(run("audit", "sign", "audit.json", "--key", "key.pem"), *said)
    assert run(*verify())[0] == 0
