"""Progress bars: for a person at a terminal, and for nobody else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


def bar(enabled: bool = True) -> Progress:
    """A progress display on stderr that goes away when done, and is silent where stderr is not a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (enabled and console.is_terminal),
    )


def track(items: Iterable[T], description: str, enabled: bool = True) -> Iterator[T]:
    """Iterates over ``items`` with a bar; the total is their length where they have one."""
    if not enabled:
        yield from items
        return
    with bar() as progress:
        task = progress.add_task(description, total=len(items) if isinstance(items, Sized) else None)
        for item in items:
            yield item
            progress.advance(task)
