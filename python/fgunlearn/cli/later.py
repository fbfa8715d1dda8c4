"""Commands that are imported when they are called: most need torch, and listing them should not take its seconds."""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperCommand
from typer.main import get_group


def add_later(app: typer.Typer, name: str, place: str, summary: str) -> None:
    """Adds a command of another module, which is imported to run it or to show its own help.

    Args:
        app: gets the command.
        name: of the command.
        place: ``module:name`` of the function that is the command, or of a ``typer.Typer`` with commands of its own.
        summary: what the list of commands says of it; the first line of the command's own help.
    """

    class Later(TyperCommand):
        # From here on the context, and so all that is parsed, shown and run, is the real command's.
        def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
            return imported(name, place).make_context(info_name, args, parent, **extra)

    app.command(name, cls=Later, help=summary)(lambda: None)


def imported(name: str, place: str) -> Any:
    """The command that :func:`add_later` stands in for, of typer's own kind: click's, or that of its copy of click."""
    module, _, attribute = place.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    group = typer.Typer()  # what typer makes of a command depends on where it is: in a group
    if isinstance(found, typer.Typer):
        group.add_typer(found, name=name)
    else:
        group.command(name)(found)
    return get_group(group).commands[name]
