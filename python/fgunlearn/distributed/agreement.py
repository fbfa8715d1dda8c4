"""That all processes mean the same, before the first of them waits for the others in vain."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fgunlearn.batches import device_of
from fgunlearn.distributed.processes import Processes, check_group

_SHOWN = 200  # characters of a value that an error shows


def agree(processes: Processes, facts: Callable[[], Mapping[str, Any]]) -> None:
    """Compares what the processes are about to work on; all of them raise if it differs.

    Sends 32 bytes per fact. Facts that a process can't state, because stating them fails, are an error of all.

    Args:
        processes: all of which call this.
        facts: what is to be equal, by name, each with a ``repr`` that tells values apart; of one set of names. What
            it raises is what is wrong with this process's arguments.

    Raises:
        ValueError: a fact differs: which, on which ranks, and what it is there; or another rank's arguments are wrong.
        Exception: what ``facts`` raised here.
    """
    wrong: Exception | None = None
    texts: dict[str, str] = {}
    try:
        texts = {name: repr(value) for name, value in facts().items()}
    except Exception as error:
        wrong = error
    failed = processes.gather(torch.tensor([wrong is not None], dtype=torch.uint8)).reshape(-1)
    if bool(failed.any()):
        words = processes.gather_texts("" if wrong is None else f"{type(wrong).__name__}: {wrong}")
        if wrong is not None:
            raise wrong
        ranks = failed.nonzero().reshape(-1).tolist()
        raise ValueError(f"{_ranks(ranks)} can't take part: {words[ranks[0]]}")
    mine = torch.stack([_digest(text) for text in texts.values()])
    everyones = processes.gather(mine)  # (ranks, facts, 32)
    for number, (name, text) in enumerate(texts.items()):
        digests = [bytes(row.tolist()) for row in everyones[:, number]]
        if len(set(digests)) > 1:
            raise ValueError(_difference(name, digests, processes.gather_texts(text)))


@contextlib.contextmanager
def errors_told(group: Any, model: object) -> Iterator[None]:
    """An error inside, before this process's :func:`agree`, is one of the others in theirs.

    Args:
        group: whose processes are about to call :func:`agree`; with None nothing is told.
        model: tells the device over which the group talks, as far as it is one.

    Raises:
        TypeError, ValueError: what was raised inside, or ``group`` is no process group of this process.
    """
    if group is not None:
        check_group(group)
    try:
        yield
    except (TypeError, ValueError) as error:
        if group is None:
            raise
        device = device_of(model) if isinstance(model, nn.Module) else torch.device("cpu")

        def facts(wrong: Exception = error) -> Mapping[str, Any]:
            raise wrong

        agree(Processes((group,), device), facts)


def raise_together(processes: Processes, error: BaseException | None, what: str) -> None:
    """Raises the error here, and one that tells of it on the other ranks; nothing if no rank has one.

    Args:
        processes: all of which call this.
        error: of this process.
        what: it was doing.
    """
    words = processes.gather_texts("" if error is None else f"{type(error).__name__}: {error}")
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


def _digest(text: str) -> Tensor:
    return torch.frombuffer(bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)


def _difference(name: str, digests: Sequence[bytes], texts: Sequence[str]) -> str:
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
