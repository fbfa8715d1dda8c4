"""That all processes mean the same, before the first of them waits for the others in vain."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from fgunlearn.batches import device_of
from fgunlearn.distributed.layout import is_dtensor
from fgunlearn.distributed.processes import Processes, check_group, processes_of

_SHOWN = 200  # characters of a value that an error shows


def agree(processes: Processes, operation: str, facts: Callable[[], Mapping[str, Any]]) -> None:
    """Compares what the processes are about to do, and to what; all of them raise if it differs.

    Sends 65 bytes, whatever the facts are, so that processes that are about different operations find it out here.
    Facts that a process can't state, because stating them fails, are an error of all.

    Args:
        processes: all of which call this.
        operation: what this process is about to do, as its user calls it.
        facts: what is to be equal, by name, each with a ``repr`` that tells values apart. What it raises is what is
            wrong with this process's arguments.

    Raises:
        ValueError: operations or a fact differ: which, on which ranks, and what it is there; or another rank's
            arguments are wrong.
        Exception: what ``facts`` raised here.
    """
    wrong: Exception | None = None
    texts: dict[str, str] = {}
    try:
        texts = {name: repr(value) for name, value in facts().items()}
    except Exception as error:
        wrong = error
    mine = torch.cat([torch.tensor([wrong is not None], dtype=torch.uint8), _digest(operation), _digest(repr(texts))])
    everyones = processes.gather(mine)
    failed = everyones[:, 0]
    if bool(failed.any()):
        words = processes.gather_texts(_said(wrong))
        if wrong is not None:
            raise wrong
        ranks = failed.nonzero().reshape(-1).tolist()
        raise ValueError(f"{_ranks(ranks)} can't take part: {words[ranks[0]]}")
    if not bool((everyones == everyones[0]).all()):
        _raise_difference(processes, {"operation": operation, **texts})


@contextlib.contextmanager
def errors_told(group: Any, model: object, operation: str) -> Iterator[None]:
    """An error inside, before this process's :func:`agree`, is one of the others in theirs.

    Args:
        group: whose processes are about to call :func:`agree`; with None those of the mesh of the model's DTensors,
            frozen ones too, as others may train them. Without any nothing is told.
        model: tells also the device over which they talk, as far as it is one.
        operation: as for :func:`agree`.

    Raises:
        TypeError, ValueError: what was raised inside, or ``group`` is no process group of this process.
    """
    if group is not None:
        check_group(group)
    try:
        yield
    except (TypeError, ValueError) as error:
        processes = _reached(group, model)
        if processes is None:
            raise

        def facts(wrong: Exception = error) -> Mapping[str, Any]:
            raise wrong

        agree(processes, operation, facts)


def _reached(group: Any, model: object) -> Processes | None:
    if group is not None:
        return Processes((group,), device_of(model) if isinstance(model, nn.Module) else torch.device("cpu"))
    if not isinstance(model, nn.Module):
        return None
    try:
        return processes_of({name: parameter for name, parameter in model.named_parameters() if is_dtensor(parameter)})
    except (TypeError, ValueError):
        return None  # meshes of different ranks: whom to tell is not known


def raise_together(processes: Processes, error: BaseException | None, what: str) -> None:
    """Raises the error here, and one that tells of it on the other ranks; nothing if no rank has one.

    Args:
        processes: all of which call this.
        error: of this process.
        what: it was doing.
    """
    words = processes.gather_texts(_said(error))
    if error is not None:
        raise error
    failed = [rank for rank, said in enumerate(words) if said]
    if failed:
        raise RuntimeError(f"{_ranks(failed)} could not {what}: {words[failed[0]]}")


@contextlib.contextmanager
def all_succeed(processes: Processes | None, what: str) -> Iterator[None]:
    """What one process runs into inside, where nothing is communicated, is an error of all; see :func:`raise_together`.

    Args:
        processes: all of which come here; None for one process.
        what: they are doing.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        if processes is None:
            raise
        error = raised
    if processes is not None:
        raise_together(processes, error, what)


def _said(error: BaseException | None) -> str:
    """Type and text of an error, or the type alone if it can't say more; "" for none."""
    if error is None:
        return ""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def _digest(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(_hex(text)), dtype=torch.uint8)


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def _raise_difference(processes: Processes, texts: Mapping[str, str]) -> NoReturn:
    """Names the first fact that is not the same on all processes; facts that are missing on one count as "nothing"."""
    digests = [json.loads(held) for held in processes.gather_texts(json.dumps({k: _hex(v) for k, v in texts.items()}))]
    names = dict.fromkeys(name for held in digests for name in held)  # in one order on all
    for name in names:
        found = [held.get(name, "") for held in digests]
        if len(set(found)) > 1:
            raise ValueError(_difference(name, found, processes.gather_texts(texts.get(name, "nothing"))))
    raise AssertionError("the digests of facts differ, and no fact does")


def _difference(name: str, digests: Sequence[str], texts: Sequence[str]) -> str:
    # The most frequent one is taken for right; the first of several.
    right = Counter(digests).most_common(1)[0][0]
    others = [rank for rank, digest in enumerate(digests) if digest != right]
    agreed = [rank for rank, digest in enumerate(digests) if digest == right]
    here, there = _around(texts[agreed[0]], texts[others[0]])
    return (
        f"the processes don't agree on the {name}: it differs on {_ranks(others)} from {_ranks(agreed)}: "
        f"{there} on rank {others[0]}, {here} on rank {agreed[0]}"
    )


def _around(one: str, other: str) -> tuple[str, str]:
    """The two texts, cut to where they begin to differ."""
    same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    begin = max(0, same - _SHOWN // 2)
    return _cut(one, begin), _cut(other, begin)


def _cut(text: str, begin: int) -> str:
    end = begin + _SHOWN
    return f"{'...' if begin else ''}{text[begin:end]}{'...' if end < len(text) else ''}"


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
