"""The command line: ``fgunlearn demo | unlearn | spdgan | bench | info``."""

from fgunlearn.cli.main import main

__all__ = ["main"]
