"""The command line: ``greencache``."""

from greencache.cli.app import main

__all__ = ["main"]
