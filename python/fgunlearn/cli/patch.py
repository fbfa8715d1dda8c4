"""``fgunlearn patch``: make, apply, take back and look at forget patches, on checkpoint files and without torch."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

import fgunlearn
from fgunlearn import patch as patches
from fgunlearn.checkpoint_files import read_checkpoint
from fgunlearn.cli.paths import check_apart
from fgunlearn.cli.text import on_one_line
from fgunlearn.files import replacing

if TYPE_CHECKING:
    from fgunlearn.audit import AuditRecord

app = typer.Typer(
    no_args_is_help=True,
    help="Ship an unlearning as a small file: create, apply, revert, inspect forget patches.",
)

_CHECKPOINT = "a safetensors file, or the index of a sharded checkpoint (*.safetensors.index.json)"

Base = Annotated[Path, typer.Argument(metavar="BASE", help=f"The checkpoint before: {_CHECKPOINT}.")]
Result = Annotated[Path, typer.Argument(metavar="RESULT", help=f"The checkpoint after: {_CHECKPOINT}.")]
PatchFile = Annotated[Path, typer.Argument(metavar="PATCH_FILE", help="The forget patch.")]
Out = Annotated[
    Path | None,
    typer.Argument(metavar="[OUT]", help="Where to write what comes of it; a new folder for a sharded checkpoint."),
]
InPlace = Annotated[
    bool,
    typer.Option("--in-place", help="Change the checkpoint itself instead; after a crash, call again or use recover."),
]
Record = Annotated[
    Path | None,
    typer.Option(help="Where to write a record of the change, JSON; fgunlearn audit patch has more options for it."),
]


@app.command()
def create(
    base: Base,
    result: Result,
    patch_file: Annotated[Path, typer.Argument(metavar="PATCH_FILE", help="Where to write the forget patch.")],
    note: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=TEXT", help="Something to say in the patch, as strategy=topk; may be repeated."),
    ] = None,
    audit: Record = None,
) -> None:
    """Write the patch that makes RESULT of BASE."""
    _check_record(audit, {"PATCH_FILE": patch_file}, {"BASE": base, "RESULT": result})
    found = patches.create(
        base, result, patch_file, metadata={"fgunlearn": fgunlearn.__version__, **_notes(note or [])}
    )
    print(f"{found.changed} of {_total(found)} values change: {patch_file}, {found.size} bytes.")
    _say(None if audit is None else _record(patch_file, audit), audit)


@app.command()
def apply(base: Base, patch_file: PatchFile, out: Out = None, in_place: InPlace = False, audit: Record = None) -> None:
    """Make of BASE what the patch says, in OUT or in place; BASE must be the checkpoint that it was made from."""
    _check_out(out, in_place)
    _check_record(audit, {"PATCH_FILE": patch_file, "OUT": out}, {"BASE": base})
    # The record is made first and takes its place last: what can't be recorded is not done.
    with contextlib.ExitStack() as held:
        record = None if audit is None else _record(patch_file, held.enter_context(replacing(audit)))
        found = patches.apply(base, patch_file, out, in_place=in_place)
    print(f"{found.changed} of {_total(found)} values changed: {base if out is None else out}.")
    _say(record, audit)


@app.command()
def revert(result: Result, patch_file: PatchFile, out: Out = None, in_place: InPlace = False) -> None:
    """Take back what apply did: of what it wrote comes the file that BASE was, byte for byte, in OUT or in place."""
    _check_out(out, in_place)
    found = patches.revert(result, patch_file, out, in_place=in_place)
    print(f"{found.changed} of {_total(found)} values changed back: {result if out is None else out}.")


@app.command()
def recover(checkpoint: Annotated[Path, typer.Argument(help=f"The checkpoint: {_CHECKPOINT}.")]) -> None:
    """Take back a change in place that was interrupted: the checkpoint is what it was before."""
    if patches.recover(checkpoint):
        print(f"{checkpoint} is what it was before the change that was interrupted.")
    else:
        print(f"No change of {checkpoint} was interrupted.")


@app.command()
def inspect(
    patch_file: PatchFile,
    json: Annotated[Path | None, typer.Option(help="Write what the patch says as JSON as well.")] = None,
) -> None:
    """Check a patch against its own hash, and print what it changes."""
    from fgunlearn.canonical_json import indented

    found = patches.inspect(patch_file)
    if json is not None:
        check_apart(json, "--json", {"PATCH_FILE": patch_file})
        with replacing(json) as temporary:
            temporary.write_bytes(indented(_as_data(found)))
    shown = Table("tensor", "dtype", "shape", "changed", "of", "share", box=None)
    for column in shown.columns[3:]:
        column.justify = "right"
    for tensor in found.tensors:
        if tensor.changed:
            share = f"{tensor.changed / tensor.numel:.3%}"
            shape = " x ".join(map(str, tensor.shape)) or "scalar"
            shown.add_row(on_one_line(tensor.name), tensor.dtype, shape, str(tensor.changed), str(tensor.numel), share)
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(f"{patch_file}: {found.size} bytes, SHA-256 {found.sha256}")
    for name, value in found.metadata.items():
        console.print(f"{on_one_line(name)}: {on_one_line(str(value))}")
    tensors = f"{shown.row_count} of {len(found.tensors)} tensors"
    console.print(f"{found.changed} of {_total(found)} values change, in {tensors}")
    if shown.row_count:
        console.print(shown)


def _total(found: patches.Patch) -> int:
    return sum(tensor.numel for tensor in found.tensors)


def _as_data(found: patches.Patch) -> dict[str, object]:
    keys = ("name", "dtype", "shape", "base_sha256", "result_sha256", "changed")
    return {
        "sha256": found.sha256,
        "size": found.size,
        "changed": found.changed,
        "metadata": found.metadata,
        "tensors": [{key: getattr(tensor, key) for key in keys} for tensor in found.tensors],
    }


def _notes(given: list[str]) -> dict[str, str]:
    notes: dict[str, str] = {}
    for note in given:
        name, equals, text = note.partition("=")
        if not equals or not name:
            raise ValueError(f"--note must be NAME=TEXT, got {note!r}")
        if name in notes:
            raise ValueError(f"--note: {name!r} is given twice")
        notes[name] = text
    return notes


def _check_out(out: Path | None, in_place: bool) -> None:
    if in_place and out is not None:
        raise ValueError(f"OUT {out} and --in-place exclude each other")
    if not in_place and out is None:
        raise ValueError("name OUT, the file to write, or give --in-place")


def _check_record(audit: Path | None, others: dict[str, Path | None], checkpoints: dict[str, Path]) -> None:
    if audit is None:
        return
    if not audit.parent.is_dir() or audit.is_dir():
        raise ValueError(f"--audit: {audit} is no place for a file")
    check_apart(audit, "--audit", {**others, **checkpoints})
    for argument, path in checkpoints.items():
        for file in read_checkpoint(path).files:
            check_apart(audit, "--audit", {f"a file of {argument}": file.path})


def _record(patch_file: Path, audit: Path) -> AuditRecord:
    from fgunlearn.cli.audit import record_patch

    return record_patch(patch_file, audit)


def _say(record: AuditRecord | None, audit: Path | None) -> None:
    if record is not None:
        print(f"The record is in {audit}, its hash {record.sha256}.")
