"""The command line: ``fgunlearn`` or ``python -m fgunlearn``, and its commands."""

from fgunlearn.cli.main import main

__all__ = ["main"]
