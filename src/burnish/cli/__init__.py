"""The command `burnish`. What a command needs is imported when it runs, so that `--help` is there at once."""

from burnish.cli.main import main

__all__ = ["main"]
