"""Worker processes of DataLoaders that last from pass to pass: a pass draws a seed where it starts new ones only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from torch.utils.data import DataLoader

from fgunlearn.batches import Loader


def has_workers(loader: Loader | None) -> bool:
    """Whether workers of an earlier pass are still there."""
    return _last(loader) and loader._iterator is not None  # type: ignore[union-attr]


def set_workers(loader: Loader | None, wanted: bool) -> None:
    """Has workers there, or none, as the next pass is to find it. Random numbers may be drawn."""
    if not _last(loader):
        return
    assert isinstance(loader, DataLoader)
    if not wanted:
        loader._iterator = None  # which ends them
    elif loader._iterator is None:
        iter(loader)


@contextlib.contextmanager
def workers_aside(loaders: Sequence[Loader | None]) -> Iterator[None]:
    """What is read inside has workers of its own; those that were there are as they were, and no others remain."""
    lasting = [loader for loader in loaders if isinstance(loader, DataLoader) and _last(loader)]
    were = [loader._iterator for loader in lasting]
    for loader in lasting:
        loader._iterator = None
    try:
        yield
    finally:
        for loader, was in zip(lasting, were, strict=True):
            loader._iterator = was


def _last(loader: Loader | None) -> bool:
    return isinstance(loader, DataLoader) and loader.persistent_workers
