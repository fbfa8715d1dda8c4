"""``fgunlearn audit``: hold a record against what is at hand, and sign one."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fgunlearn.audit import (
    AuditRecord,
    Check,
    Evidence,
    SigningKey,
    data_of,
    of_patch,
    patch_hashes,
    read_salt,
    verify,
)
from fgunlearn.audit.samples import SALTED
from fgunlearn.cli.paths import check_apart, check_file, check_folder_of
from fgunlearn.cli.salts import Salt, salt_path
from fgunlearn.cli.text import on_one_line
from fgunlearn.files import replacing

if TYPE_CHECKING:
    from torch import Tensor, nn

_WIDTH = 140  # columns of text that the table needs

app = typer.Typer(no_args_is_help=True, help="Check the record that an unlearning leaves.")

Record = Annotated[Path, typer.Argument(metavar="AUDIT", help="The record, as fgunlearn unlearn --audit wrote it.")]


@app.command("verify")
def verify_command(
    audit: Record,
    base: Annotated[
        Path | None, typer.Option(help="Weights before: a safetensors file, or the index of a sharded checkpoint.")
    ] = None,
    result: Annotated[Path | None, typer.Option(help="Weights after, likewise.")] = None,
    patch: Annotated[Path | None, typer.Option(help="Forget patch that makes the change.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Training data, a safetensors file: x (samples first) and y (int64).")
    ] = None,
    forget: Annotated[
        Path | None, typer.Option(help="Text file with the row numbers that were forgotten, one per line.")
    ] = None,
    salt: Annotated[
        Path | None, typer.Option(help="Salt of the record's sample hashes; AUDIT.salt by default, if it is there.")
    ] = None,
    heldout: Annotated[
        Path | None, typer.Option(help="Data that the record's figures were measured on beside it, like --data.")
    ] = None,
    arch: Annotated[
        str | None, typer.Option(help="module:function that makes the model: to measure the figures again.")
    ] = None,
    retrained: Annotated[
        Path | None, typer.Option(help="Weights of --arch trained without the forgotten rows, for relearning.")
    ] = None,
    gan: Annotated[Path | None, typer.Option(help="What fgunlearn spdgan train wrote, for the degree.")] = None,
    selection: Annotated[
        Path | None, typer.Option(help="The selected coordinates, as fgunlearn unlearn --save-selection wrote them.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Ed25519 public key that you trust, a PEM file.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the checks as JSON as well.")] = None,
) -> None:
    """Recompute what a record claims, as far as what is given allows.

    Exit status: 0 if nothing differs, though little may have been checked; 1 if something differs; 2 for input that
    can't be read. With --arch, that function is imported with the current folder on the path.
    """
    record = _loaded(audit)
    if json is not None:
        check_folder_of(json, "--json")
        read = {"AUDIT": audit, "--base": base, "--result": result, "--patch": patch, "--data": data, "--salt": salt}
        more = {"--forget": forget, "--heldout": heldout, "--retrained": retrained, "--gan": gan, "--key": key}
        check_apart(json, "--json", {**read, **more, "--selection": selection})
    for option, path in (("--base", base), ("--result", result)):
        if path is not None and not path.is_file():
            raise ValueError(f"{option}: there is no file {path}")
    evidence = Evidence(
        base=base,
        result=result,
        patch=None if patch is None else _patch(patch, "--patch"),
        **_samples(record, audit, data, forget, salt, heldout),
        selection=None if selection is None else _selection(selection),
        key=key,
        **_models(arch, base, result, retrained, gan),
    )
    _check_fit(evidence)
    checks = verify(record, evidence)
    _print(audit, checks)
    if json is not None:
        from fgunlearn.experiment.results import write_json

        write_json(_as_json(record, checks), json)
    if any(check.state == "differs" for check in checks):
        raise typer.Exit(1)


@app.command("sign")
def sign_command(
    audit: Record,
    key: Annotated[Path, typer.Option(help="Ed25519 private key, a PEM file.")],
    password_file: Annotated[
        Path | None, typer.Option(help="File with the password of an encrypted key; a line feed at its end is cut off.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the signed record; by default it replaces AUDIT.")
    ] = None,
) -> None:
    """Sign a record, as it is, with a private key."""
    record = _loaded(audit)
    check_apart(out, "--out", {"--key": key, "--password-file": password_file})
    password = None
    if password_file is not None:
        try:
            password = password_file.read_bytes().removesuffix(b"\n").removesuffix(b"\r")
        except OSError as error:
            raise ValueError(f"--password-file: can't read {password_file}: {error.strerror}") from error
    signing = SigningKey(key, "--key", password)
    try:
        signed = signing.sign(record)
    except ValueError as error:
        raise ValueError(f"{audit}: {error}") from error
    assert signed.signature is not None
    signed.save(out or audit)
    print(f"Signed by the key {signed.signature['key_sha256']}: {out or audit}")


@app.command("patch")
def patch_command(
    patch_file: Annotated[Path, typer.Argument(metavar="PATCH_FILE", help="A forget patch.")],
    audit: Annotated[Path, typer.Argument(metavar="AUDIT", help="Where to write the record.")],
    data: Annotated[
        Path | None, typer.Option(help="Training data, a safetensors file: x (samples first) and y (int64).")
    ] = None,
    forget: Annotated[
        Path | None, typer.Option(help="Text file with the row numbers that were forgotten, one per line.")
    ] = None,
    salt: Annotated[
        Path | None,
        typer.Option(help="Secret for the sample hashes, made if it is not there; AUDIT.salt by default."),
    ] = None,
    plain_hashes: Annotated[
        bool, typer.Option("--plain-hashes", help="Hash samples without a salt: who can guess a sample finds it.")
    ] = False,
    sign: Annotated[Path | None, typer.Option(help="Ed25519 private key, a PEM file, to sign the record with.")] = None,
) -> None:
    """Write the record of a change that a forget patch describes, by what the patch says.

    It has the hashes of both checkpoints, and with --data and --forget those of the forgotten samples; nothing is
    measured.
    """
    record = record_patch(
        patch_file, audit, data=data, forget=forget, salt=salt, plain_hashes=plain_hashes, sign=sign, option="AUDIT"
    )
    print(f"The record is in {audit}, its hash {record.sha256}.")


def record_patch(
    patch_file: Path,
    audit: Path,
    *,
    data: Path | None = None,
    forget: Path | None = None,
    salt: Path | None = None,
    plain_hashes: bool = False,
    sign: Path | None = None,
    option: str = "--audit",
) -> AuditRecord:
    """Writes the record of a forget patch: for every command that has one. Arguments as for ``fgunlearn audit patch``.

    Args:
        patch_file: of the patch, which is checked.
        audit: where to write the record.
        data: training data.
        forget: rows that were forgotten.
        salt: of the sample hashes.
        plain_hashes: go without.
        sign: private key.
        option: that names ``audit`` in errors.

    Raises:
        ImportError: a signature is wanted, and the package cryptography is missing.
        ValueError: what is wrong with which option.
        OSError: a file can't be written.
    """
    key = None if sign is None else SigningKey(sign, "--sign")
    read = {"PATCH_FILE": patch_file, "--data": data, "--forget": forget, "--salt": salt, "--sign": sign}
    check_apart(audit, option, read)
    found = _patch(patch_file, "PATCH_FILE")
    if not audit.parent.is_dir() or audit.is_dir():
        raise ValueError(f"{option}: {audit} is no place for a file")
    if data is None and (salt is not None or plain_hashes):
        raise ValueError(f"{'--plain-hashes' if plain_hashes else '--salt'} is about samples: it needs --data")
    held = _rows(data, forget)
    secret = Salt.of(audit, salt, plain_hashes) if held else None
    record = of_patch(
        found["base"],
        found["result"],
        found["metadata"],
        data=None if secret is None else data_of(held["forget"], held.get("retain"), salt=secret.value),
        patch_sha256=found["sha256"],
        changed=found["changed"],
    )
    if key is not None:
        record = key.sign(record)
    with replacing(audit) as temporary:
        temporary.write_bytes(record.text())
        if secret is not None:
            secret.keep()
    return record


def _loaded(path: Path) -> AuditRecord:
    try:
        return AuditRecord.load(path)
    except OSError as error:
        raise ValueError(f"AUDIT: can't read {path}: {error.strerror}") from error


def _samples(
    record: AuditRecord, audit: Path, data: Path | None, forget: Path | None, salt: Path | None, heldout: Path | None
) -> dict[str, Any]:
    """The parts of the evidence that are samples."""
    beside = salt_path(audit, None)
    if salt is None and beside.is_file() and record.data is not None and record.data["hash"] == SALTED:
        salt = beside
    found: dict[str, Any] = {"salt": None if salt is None else read_salt(salt, "--salt")}
    found |= _rows(data, forget)
    if heldout is not None:
        from fgunlearn.cli.inputs import load_data

        found["heldout"] = _batches(*load_data(heldout, "--heldout"))
    return found


def _rows(data: Path | None, forget: Path | None) -> dict[str, Any]:
    """The forgotten samples, the remaining ones and the rows of the former; nothing without files."""
    if (data is None) != (forget is None):
        raise ValueError("--data and --forget must be given together")
    if data is None or forget is None:
        return {}
    import torch

    from fgunlearn.cli.inputs import load_data, load_ids

    x, y = load_data(data, "--data")
    ids = load_ids(forget, "--forget", len(y))
    rest = torch.ones(len(y), dtype=torch.bool)
    rest[ids] = False
    retain = {"retain": _batches(x[rest], y[rest])} if bool(rest.any()) else {}
    return {"forget": _batches(x[ids], y[ids]), "rows": ids.tolist(), **retain}


def _batches(x: Tensor, y: Tensor) -> Any:
    from fgunlearn.cli.recording import BATCH
    from fgunlearn.experiment.data import Batches

    return Batches(x, y, BATCH)


def _models(
    arch: str | None, base: Path | None, result: Path | None, retrained: Path | None, gan: Path | None
) -> dict[str, Any]:
    """The parts of the evidence that are networks."""
    if arch is None:
        for option, path in (("--retrained", retrained), ("--gan", gan)):
            if path is not None:
                raise ValueError(f"{option} needs --arch, the function that makes the model")
        return {}
    from fgunlearn.cli.inputs import load_model
    from fgunlearn.spdgan import SPDGAN

    def made(path: Path | None, option: str) -> nn.Module | None:
        return None if path is None else load_model(path, option, arch)[0]

    if gan is not None:
        check_file(gan, "--gan")
    return {
        "base_model": made(base, "--base"),
        "result_model": made(result, "--result"),
        "retrained": made(retrained, "--retrained"),
        "gan": None if gan is None else SPDGAN.load(gan),
        "gan_sha256": None if gan is None else hashlib.sha256(gan.read_bytes()).hexdigest(),
    }


def _check_fit(evidence: Evidence) -> None:
    """That the models take the samples, by a look at one of them."""
    network = evidence.result_model if evidence.base_model is None else evidence.base_model
    if network is None:
        return
    from fgunlearn.cli.inputs import check_fits

    for option, batches in (("--data", evidence.forget), ("--data", evidence.retain), ("--heldout", evidence.heldout)):
        for x, y in batches or ():
            check_fits(network, x, y, option)


def _selection(path: Path) -> Any:
    from fgunlearn.selection import Selection

    check_file(path, "--selection")
    return Selection.load(path)


def _patch(path: Path, option: str) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{option}: there is no file {path}")
    return patch_hashes(path)


def _print(audit: Path, checks: list[Check]) -> None:
    shown = Table("claim", "", "", box=None)
    for check in checks:
        shown.add_row(*(on_one_line(each) for each in (check.claim, check.state, check.detail)))
    console = Console(width=max(Console().width, _WIDTH), highlight=False, markup=False)
    console.print(shown)
    counts = Counter(check.state for check in checks)
    differs = f"{counts['differs']} differ" if counts["differs"] else "nothing differs"
    console.print(f"{audit}: {counts['verified']} verified, {differs}, {counts['not checked']} not checked")


def _as_json(record: AuditRecord, checks: list[Check]) -> dict[str, Any]:
    counts = Counter(check.state for check in checks)
    return {
        "sha256": record.sha256,
        "verified": counts["verified"],
        "differs": counts["differs"],
        "not_checked": counts["not checked"],
        "checks": [{"claim": check.claim, "state": check.state, "detail": check.detail} for check in checks],
    }
