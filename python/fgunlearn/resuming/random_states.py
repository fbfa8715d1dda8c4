"""Random numbers that others draw: global generators, those of a DataLoader, and what a loader counts by itself."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fgunlearn.batches import Loader
from fgunlearn.resuming.errors import CheckpointError
from fgunlearn.resuming.file import Contents
from fgunlearn.resuming.workers import has_workers, set_workers

_WORDS = 624  # of the state of a Mersenne Twister
_PLACES = ((), ("sampler",), ("batch_sampler",), ("batch_sampler", "sampler"), ("dataset",))


@dataclass(frozen=True)
class RandomStates:
    """What decides the random numbers that come next, and with them the order in which loaders give their data.

    Attributes:
        torch: state of the CPU's generator, uint8.
        cuda: those of the CUDA devices, where CUDA is in use.
        python: of the module ``random``, as JSON has it.
        numpy: of NumPy's global generator, likewise.
        generators: of the loaders' own torch generators.
        own: what the loaders' ``state_dict()`` tell; None for one without.
        workers: of each loader, whether workers of an earlier pass are there: it draws a seed for new ones only.
    """

    torch: Tensor
    cuda: Sequence[Tensor]
    python: Any
    numpy: Any
    generators: Sequence[Tensor]
    own: Sequence[Any]
    workers: Sequence[bool]

    @classmethod
    def now(cls, loaders: Sequence[Loader | None]) -> RandomStates:
        """Those of this moment; nothing is drawn.

        Raises:
            TypeError: a loader's ``state_dict()`` returns what JSON can't hold.
        """
        return cls(
            torch.get_rng_state(),
            torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
            random.getstate(),
            np.random.get_state(legacy=False),  # noqa: NPY002 - the one that others draw from
            [generator.get_state() for generator in _generators(loaders)],
            [_own_state(loader) for loader in loaders],
            [has_workers(loader) for loader in loaders],
        )

    def restore(self, loaders: Sequence[Loader | None], *, reading: Loader | None = None) -> None:
        """Puts them back.

        Args:
            loaders: those that the states were taken with, or their like.
            reading: the one that is in the middle of a pass: what it counts for itself stays as it is, and its workers.

        Raises:
            ValueError: loaders with other generators.
        """
        generators = list(_generators(loaders))
        if len(generators) != len(self.generators):
            raise CheckpointError(
                f"checkpoint: the loaders had {len(self.generators)} random generators of their own, and now have "
                f"{len(generators)}"
            )
        if not len(self.own) == len(self.workers) == len(loaders):
            raise CheckpointError(f"checkpoint: there were {len(self.own)} loaders, and now there are {len(loaders)}")
        for loader, had in zip(loaders, self.workers, strict=True):
            if loader is not reading:
                set_workers(loader, had)  # first, as it may draw
        torch.set_rng_state(self.torch)
        for device, state in enumerate(self.cuda[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, device)
        version, words, gauss = self.python
        random.setstate((version, tuple(words), gauss))
        np.random.set_state(_arrays(self.numpy))  # noqa: NPY002
        for generator, state in zip(generators, self.generators, strict=True):
            generator.set_state(state)
        for loader, own in zip(loaders, self.own, strict=True):
            if own is not None and loader is not reading and counts_for_itself(loader):
                loader.load_state_dict(own)  # type: ignore[union-attr]

    def contents(self) -> Contents:
        """For a file."""
        tensors = {"torch": self.torch}
        tensors |= {f"cuda/{i}": state for i, state in enumerate(self.cuda)}
        tensors |= {f"generators/{i}": state for i, state in enumerate(self.generators)}
        facts = {"python": self.python, "numpy": _lists(self.numpy)}
        facts |= {"own": list(self.own), "workers": list(self.workers)}
        return Contents(tensors, {**facts, "cuda": len(self.cuda), "generators": len(self.generators)})

    @classmethod
    def of(cls, contents: Contents) -> RandomStates:
        """What a file has; that generators take it is tried here, before anything moves.

        Raises:
            ValueError: it is damaged.
        """
        tensors, facts = contents.tensors, contents.facts
        with contents.well_formed():
            found = cls(
                tensors["torch"],
                [tensors[f"cuda/{i}"] for i in range(facts["cuda"])],
                facts["python"],
                facts["numpy"],
                [tensors[f"generators/{i}"] for i in range(facts["generators"])],
                list(facts["own"]),
                [bool(had) for had in facts["workers"]],
            )
            found._try()
        return found

    def _try(self) -> None:
        torch.Generator().set_state(self.torch)
        version, words, gauss = self.python
        random.Random().setstate((version, tuple(words), gauss))
        state = _arrays(self.numpy)
        if not 0 <= state["state"]["pos"] <= _WORDS:  # NumPy takes any, and reads there
            raise ValueError(f"a position of {state['state']['pos']} in a state of {_WORDS} words")
        np.random.RandomState().set_state(state)
        for generator in self.generators:
            if generator.numel() == self.torch.numel():  # on the CPU
                torch.Generator().set_state(generator)


def _generators(loaders: Sequence[Loader | None]) -> Iterator[torch.Generator]:
    """The loaders' own generators, each once: a DataLoader's, and those of its samplers and its data."""
    seen: set[int] = set()
    for loader in loaders:
        for place in _PLACES:
            part: Any = loader
            for name in place:
                part = getattr(part, name, None)
            generator = getattr(part, "generator", None)
            if isinstance(generator, torch.Generator) and id(generator) not in seen:
                seen.add(id(generator))
                yield generator


def counts_for_itself(loader: Loader | None) -> bool:
    """Whether a loader has a state of its own. torchdata's loaders tell it only by beginning a pass."""
    begins = isinstance(loader, DataLoader) and any(
        base.__module__.partition(".")[0] == "torchdata" for base in type(loader).__mro__
    )
    return not begins and all(hasattr(loader, name) for name in ("state_dict", "load_state_dict"))


def _own_state(loader: Loader | None) -> Any:
    if not counts_for_itself(loader):
        return None
    state = loader.state_dict()  # type: ignore[union-attr]
    try:
        return json.loads(json.dumps(state))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"checkpoint: state_dict() of a loader, {type(loader).__name__}, must return what JSON can hold: {error}"
        ) from error


def _lists(value: Any) -> Any:
    """NumPy's state with lists for arrays and plain numbers for its scalars."""
    if isinstance(value, dict):
        return {key: _lists(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    return value.item() if isinstance(value, np.generic) else value


def _arrays(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value.keys() == {"array", "dtype"}:
        return np.array(value["array"], dtype=value["dtype"])
    return {key: _arrays(part) for key, part in value.items()}
