"""The command line: one module a group of commands; `python -m mismatch_lab.cli`."""

from mismatch_lab.cli.app import app, main

__all__ = ["app", "main"]
