"""Sandboxes for Python that a model wrote; another is one module and one row."""

from __future__ import annotations

from mismatch_lab.registry import resolve
from mismatch_lab.trainer.sandbox.base import Limits, Outcome, Sandbox

__all__ = ["SANDBOXES", "Limits", "Outcome", "Sandbox", "open_sandbox"]

_HERE = "mismatch_lab.trainer.sandbox"

SANDBOXES: dict[str, str] = {
    "monty": f"{_HERE}.monty:MontySandbox",
}


def open_sandbox(name: str = "monty", limits: Limits | None = None) -> Sandbox:
    """Start a sandbox; close it when done (it is a context manager).

    Raises:
        InputError: no sandbox has this name.
        MissingDependencyError: the library behind it is not installed.
    """
    sandbox: Sandbox = resolve("sandbox", name, SANDBOXES)(limits or Limits())
    return sandbox
