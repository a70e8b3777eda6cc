"""What a sandbox promises: programs in, one outcome each, and nothing else ever changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

from mismatch_lab.errors import InputError

Status = Literal["ok", "error", "time", "memory", "output", "crash"]
"""`error`: it raised or was no Python; `crash`: the interpreter died and was replaced."""


@dataclass(frozen=True)
class Limits:
    """What one program may use. Within them it may do as it likes."""

    time_s: float = 1.0
    """Of running; the call returns at most `grace_s` later, whatever the program does."""
    grace_s: float = 1.0
    memory_mib: int = 64
    output_chars: int = 2000
    """What is kept of the output and of an error message; a longer output ends as `output`."""
    source_chars: int = 20_000
    call_depth: int = 200
    workers: int = 2
    """Programs that run at the same time, each in a process of its own."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise InputError(f"The sandbox's {name} must be above 0, not {value}.")


@dataclass(frozen=True)
class Outcome:
    """What became of one program."""

    status: Status
    output: str
    """What it printed, cut at `Limits.output_chars`."""
    error: str = ""
    """Why it ended, where it did not end well: `ZeroDivisionError: division by zero`."""


class Sandbox(Protocol):
    """Runs untrusted Python without files, network, processes, environment or a clock.

    Every program starts afresh, knows nothing of the others, and sees the same random numbers and
    the same date each time, so that a resumed training run sees what the first one saw.
    """

    @property
    def version(self) -> str:
        """Name and version of what runs the programs, for the record."""
        ...

    def run(self, programs: Sequence[str]) -> list[Outcome]:
        """Run the programs, some at a time; outcomes in order. Never raises for a program."""
        ...

    def close(self) -> None:
        """Stop the processes. A second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...
