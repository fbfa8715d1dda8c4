"""What is compared: a method of :mod:`fgunlearn.methods` with options, in words: ``topk:ratio=0.1,score=grad``."""

from __future__ import annotations

import ast
import copy
import dataclasses
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from fgunlearn import methods
from fgunlearn.experiment.compare.options import DEFAULTS, OURS, recipe_arguments
from fgunlearn.experiment.training import Training
from fgunlearn.methods.selective import FORGET_TERM, RECIPES, Recipe

_GIVEN = ("model", "forget_loader", "retain_loader", "loss_fn", "heldout_loader", "seed", "progress", "checkpoint")


@dataclass(frozen=True)
class Entry:
    """A method, and the options in which it differs from :data:`~fgunlearn.experiment.compare.options.DEFAULTS`.

    ``options`` are pairs of name and value, sorted by name. Beside the method's own there is "recipe" for this
    package's methods: "forget_term", "heldout", or "perturb_repair", the paper's; by default one of the first two, as
    fits the source model (:func:`fgunlearn.methods.selective.recipe_for`).
    """

    method: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """As it is written on the command line."""
        if not self.options:
            return self.method
        return f"{self.method}:{','.join(f'{name}={value}' for name, value in self.options)}"

    @property
    def ours(self) -> bool:
        """Whether the method is one of this package's own."""
        return self.method in OURS

    @property
    def open_recipe(self) -> bool:
        """Whether the recipe is left to what fits the source model."""
        return self.ours and "recipe" not in dict(self.options)

    def arguments(self, training: Training, seed: int, fitting: Recipe = FORGET_TERM) -> dict[str, Any]:
        """What the method is called with, beside model and loaders; where the recipe is open, ``fitting`` is it."""
        given = {**DEFAULTS.get(self.method, {}), **dict(self.options)}
        if self.ours:
            given = recipe_arguments(given, training, seed, fitting)
        if self.method == "retrain":  # as the models that it is compared with
            taken = inspect.signature(methods.retrain).parameters
            same = {k: v for k, v in dataclasses.asdict(training).items() if k in taken}
            given = {**same, **given}
        return given

    def check(self, model: nn.Module, training: Training) -> None:
        """Refuses what the method would refuse, before anything is trained for it.

        The method is called on a copy of the model up to where it first looks at data: it has checked its options by
        then.

        Args:
            model: of the architecture that the method is for.
            training: of the models that it is compared with.

        Raises:
            TypeError, ValueError: what is wrong with which option of this entry; no such method or option.
        """
        _check_names(self.name, self.method, dict(self.options))
        try:
            methods.get(self.method)(copy.deepcopy(model), _Unread(), _Unread(), **self.arguments(training, 0))
        except _Reached:
            pass
        except (TypeError, ValueError) as error:
            raise type(error)(f"{self.name}: {error}") from error


class _Reached(Exception):
    """A method looks at data."""


class _Unread:
    """A loader that nobody gets anything from."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        raise _Reached


def all_methods() -> list[Entry]:
    """Every method, and Top-K by the paper's recipe as well."""
    entries = [Entry(name) for name in methods.list()]
    return [*entries, Entry("topk", (("recipe", "perturb_repair"),))]


def parse(spec: str) -> Entry:
    """An entry from words: a method's name, and after a colon options with commas between them.

    Values are Python's numbers, True, False and None; anything else is a string.

    Raises:
        ValueError: no such method or option, or an option without a value; the nearest name is suggested.
    """
    name, colon, rest = spec.partition(":")
    methods.get(name)
    options: dict[str, Any] = {}
    for part in rest.split(",") if colon else []:
        option, equals, text = part.partition("=")
        if not equals or not text:
            raise ValueError(f"{spec!r}: an option must be NAME=VALUE, got {part!r}")
        if option in options:
            raise ValueError(f"{spec!r}: {option} is given twice")
        options[option] = _value(text)
    _check_names(spec, name, options)
    return Entry(name, tuple(sorted(options.items())))


def _check_names(spec: str, method: str, options: dict[str, Any]) -> None:
    """That the method is there and has such options, and "recipe" is one.

    Raises:
        ValueError: ``spec`` and what is wrong with it are named.
    """
    taken = inspect.signature(methods.get(method)).parameters
    known = [option for option in taken if option not in _GIVEN] + (["recipe"] if method in OURS else [])
    for option in options:
        if option not in known:
            raise ValueError(f"{spec!r}: {method} has no option {option!r}; it has {', '.join(known)}")
    if options.get("recipe", "forget_term") not in RECIPES:
        raise ValueError(f"{spec!r}: recipe must be one of {', '.join(RECIPES)}, got {options['recipe']!r}")


def _value(text: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, (int, float, type(None))) else text
