"""The command line: ``fgunlearn demo | unlearn | bench | info``."""

from fgunlearn.cli.main import main

__all__ = ["main"]
