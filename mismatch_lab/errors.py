"""Errors that a user can act on: what was wrong, where, and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from difflib import get_close_matches


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


class NoRoomError(MismatchLabError):
    """An alteration did not fit into memory: not tried, no result, and said so."""


class NotDefinedError(MismatchLabError):
    """The architecture, or something in its config.json, has no definition in `definitions`."""


DISK_FULL = (
    "The disk is full: what was being written is not whole.",
    "Free some of it, or choose an --out on another disk; TMPDIR says where temporary files go.",
)
"""Problem and hint."""


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed for lack of room, whichever library says so."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)


SHORTEST_PART = 3
"""Letters of a part of a name that is looked for."""

MOST_LISTED = 12
"""Names that a hint lists; of more it says what lists them."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that may have been meant, or those that contain it, as the start of a hint;
    empty if none is near.
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    if not close and len(name) >= SHORTEST_PART:
        close = [one for one in names if name in one]
    return f"Did you mean {few(close)}? " if close else ""


def choices(name: str, known: Iterable[str], list_command: str = "") -> str:
    """A hint for a name that is not known: the nearest one, then all, or the command that lists
    them where they are many.
    """
    names = sorted(known)
    if list_command and len(names) > MOST_LISTED:
        return f"{nearest(name, names)}All: `{list_command}`."
    return f"{nearest(name, names)}Available: {', '.join(names)}."


def few(names: Sequence[str], shown: int = 3) -> str:
    """For a message: the first names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
