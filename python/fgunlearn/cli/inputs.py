"""What commands are given: models, data and row numbers, read from files and checked; errors name the option."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from fgunlearn.batches import evaluation_mode
from fgunlearn.cli.paths import check_apart, check_file, check_folder_of
from fgunlearn.experiment.requests import read_rows
from fgunlearn.metrics.accuracy import checked_logits
from fgunlearn.patch.journal import refuse_journals
from fgunlearn.patch.locks import shared
from fgunlearn.resuming import Checkpoint
from fgunlearn.resuming.file import remove
from fgunlearn.resuming.identity import digest

Metadata = dict[str, str] | None


def checkpoint_of(path: Path | None, every: int | None, others: Mapping[str, Path | None]) -> Checkpoint | None:
    """What --checkpoint and --checkpoint-every ask for; a call that goes on says so on stderr, and keeps the file.

    Args:
        path: of --checkpoint.
        every: of --checkpoint-every.
        others: the other files by option.

    Raises:
        ValueError: steps without a file; no place for it, or that of another option.
    """
    if path is None:
        if every is not None:
            raise ValueError(f"--checkpoint-every is about --checkpoint, and none is given; got {every}")
        return None
    check_folder_of(path, "--checkpoint")
    check_apart(path, "--checkpoint", others)

    def resumed(step: int) -> None:
        print(f"fgunlearn: going on from {path}, after step {step}", file=sys.stderr)

    asked = Checkpoint(path, resumed=resumed, keep=True)
    return asked if every is None else replace(asked, every=every)


def of_data(checkpoint: Checkpoint | None, x: Tensor, y: Tensor) -> Checkpoint | None:
    """The same, for a call with all of that data."""
    return None if checkpoint is None else replace(checkpoint, data=digest((x, y)))


def remove_checkpoint(checkpoint: Checkpoint | None) -> None:
    """Removes what a call left, now that the results are written; where that fails, says so on stderr."""
    if checkpoint is None:
        return
    try:
        remove(Path(checkpoint.path))
    except OSError as error:
        print(f"fgunlearn: --checkpoint is of no use any more, but can't be removed: {error}", file=sys.stderr)


def load_model(path: Path, option: str, arch: str) -> tuple[nn.Module, dict[str, Tensor], Metadata]:
    """The model that ``module:function`` makes, with the weights of a file, those weights, and the file's metadata.

    The module is imported with the current folder on the path.

    Raises:
        ValueError: what is wrong with either.
    """
    module_name, _, function_name = arch.partition(":")
    if not module_name or not function_name:
        raise ValueError(f"--arch must be module:function, got {arch!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        make = getattr(importlib.import_module(module_name), function_name)
    except ImportError as error:
        raise ValueError(f"--arch: can't import {module_name!r}: {error}") from error
    except AttributeError as error:
        raise ValueError(f"--arch: module {module_name!r} has no {function_name!r}") from error
    network = make()
    if not isinstance(network, nn.Module):
        raise ValueError(f"--arch: {arch} must return a torch.nn.Module, got {type(network).__name__}")
    check_file(path, option)
    with shared([path]):  # until the weights are read: before, they are only mapped
        refuse_journals(path)
        weights, metadata = read_tensors(path, option)
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"{option}: {path} does not fit {arch}: {in_one_line(error)}") from error
    return network, weights, metadata


def read_tensors(path: Path, option: str) -> tuple[dict[str, Tensor], Metadata]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        ValueError: there is none, or it can't be read.
    """
    check_file(path, option)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        return load_file(path), metadata
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{option}: {path} is not a readable safetensors file: {error}") from error


def load_data(path: Path, option: str) -> tuple[Tensor, Tensor]:
    """x, samples first, and y, int64 (samples,), of a safetensors file.

    Raises:
        ValueError: the file holds something else.
    """
    tensors, _ = read_tensors(path, option)
    if not {"x", "y"} <= tensors.keys():
        raise ValueError(
            f"{option}: {path} must hold the tensors x and y, found {', '.join(sorted(tensors)) or 'none'}"
        )
    x, y = tensors["x"], tensors["y"]
    if y.dtype != torch.int64 or y.dim() != 1 or x.dim() == 0 or len(x) != len(y):
        raise ValueError(
            f"{option}: y must be int64 of shape (samples,) with one label per row of x, got {y.dtype} of shape "
            f"{tuple(y.shape)} for x of shape {tuple(x.shape)}"
        )
    return x, y


def load_ids(path: Path, option: str, rows: int) -> Tensor:
    """The row numbers of a text file, one per line, ascending, int64; ``#`` begins a comment.

    Raises:
        ValueError: a line that is not the number of one of ``rows`` rows, a row named twice, or none.
    """
    lines = read_rows(path, option)
    for row, number in lines.items():
        if row >= rows:
            raise ValueError(f"{option}: line {number} of {path} is {row}, but the data has {rows} rows")
    return torch.tensor(sorted(lines))


@torch.no_grad()
def check_fits(network: nn.Module, x: Tensor, y: Tensor, option: str) -> None:
    """That the model takes such samples and knows such labels.

    Raises:
        ValueError: there is no sample, the model fails on the first one or returns no logits, or a label is not the
            number of one of its classes.
    """
    if len(y) == 0:
        raise ValueError(f"{option}: there is no sample in it")
    with evaluation_mode(network):
        try:
            out = network(x[:1].clone())  # it may work in place
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ValueError(
                f"{option}: the model of --arch does not take samples of shape {tuple(x.shape[1:])} and {x.dtype}: "
                f"{in_one_line(error)}"
            ) from error
    classes = checked_logits(out, y[:1]).shape[1]
    smallest, largest = int(y.min()), int(y.max())
    if smallest < 0 or largest >= classes:
        wrong = smallest if smallest < 0 else largest
        raise ValueError(f"{option}: labels must be in [0, {classes}), the model's classes, got {wrong}")


def in_one_line(error: Exception) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split())
