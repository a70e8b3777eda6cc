"""Errors that a user can act on: what was wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class MismatchLabError(Exception):
    """A failure the user can mend; the CLI prints it without a traceback and exits with 2.

    Args:
        problem: what was wrong and where.
        hint: what to do about it.
    """

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem}\n{self.hint}" if self.hint else self.problem


class InputError(MismatchLabError):
    """A path, option or file from the user is wrong."""


class MissingDependencyError(MismatchLabError):
    """A backend is not installed; the hint is the install line."""


class EngineError(MismatchLabError):
    """An engine could not start, ran out of memory, or died."""


class CaptureError(MismatchLabError):
    """A capture is missing, damaged, or not what it says it is."""


class AlignmentError(MismatchLabError):
    """Two captures do not hold the same tokens."""


class NotApplicableError(MismatchLabError):
    """The model has no part that the alteration or fault changes: not tried, no result."""


class NotDefinedError(MismatchLabError):
    """The architecture, or something in its config.json, has no definition in `definitions`."""


def few(names: Sequence[str], shown: int = 3) -> str:
    """For a message: the first names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
