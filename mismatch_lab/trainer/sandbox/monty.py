"""The sandbox on pydantic-monty, an interpreter of a subset of Python that has no way out.

Its bytecode has no operation that reaches the host: no files, sockets, processes, environment or
foreign functions, and no `__import__`, `__class__` or `__subclasses__` to climb. It runs in worker
processes, so that even an interpreter that crashes takes only its program along. On top of
its own limits the kernel bounds each worker's memory and forbids it to write to any file.

Programs have json, math, re, random, itertools, functools, collections, datetime and a few others.
"""

from __future__ import annotations

import datetime
import resource
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING, Self

from mismatch_lab.errors import MissingDependencyError
from mismatch_lab.trainer.sandbox.base import Limits, Outcome, Status

if TYPE_CHECKING:
    import pydantic_monty

INSTALL = "pip install 'pydantic-monty>=1.4,<2'"
MIB = 2**20
# An idle worker maps 120 MiB; a value being copied may exist three times for a moment.
ADDRESS_SPACE_BASE_MIB = 512
ADDRESS_SPACE_FACTOR = 4
# Names that a program looks up and does not have, and calls that are refused, each ask the host.
SUSPENSIONS_MAX = 100
# What a program evaluates to stays in the worker: its last value is None.
_NO_VALUE = "\n\nNone"
_DAY = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
# How monty words its own limits; an exception that the program raised itself reads otherwise.
_LIMITS: dict[str, Status] = {
    "TimeoutError: feed time limit exceeded": "time",
    "MemoryError: memory limit exceeded": "memory",
    "MemoryError: the worker exceeded its memory limit": "memory",
}


class MontySandbox:
    """A pool of monty workers; `run` uses `limits.workers` of them at a time."""

    def __init__(self, limits: Limits) -> None:
        try:
            import pydantic_monty
        except ImportError as error:
            raise MissingDependencyError(
                "The sandbox needs pydantic-monty, which is not installed.", INSTALL
            ) from error
        self._limits = limits
        try:
            self._pool = pydantic_monty.Monty(
                min_processes=limits.workers,
                max_processes=limits.workers,
                request_timeout=limits.time_s + limits.grace_s,
            ).__enter__()
        except FileNotFoundError as error:
            raise MissingDependencyError(
                f"The interpreter of pydantic-monty is missing: {error}", INSTALL
            ) from error
        self._threads = ThreadPoolExecutor(limits.workers, thread_name_prefix="sandbox")
        self._closed = False

    @property
    def version(self) -> str:
        """`pydantic-monty 1.4.0`."""
        return f"pydantic-monty {version('pydantic-monty-runtime')}"

    def run(self, programs: Sequence[str]) -> list[Outcome]:
        """Run the programs, some at a time; outcomes in order."""
        return list(self._threads.map(self._run_one, programs))

    def _run_one(self, program: str) -> Outcome:
        import pydantic_monty

        limits, printed = self._limits, _Printed(self._limits.output_chars)
        if len(program) > limits.source_chars:
            return Outcome("error", "", f"SyntaxError: over {limits.source_chars} characters")
        try:
            with self._session() as session:
                _confine(session.worker_pid, limits)
                session.feed_run(program + _NO_VALUE, print_callback=printed)
        except pydantic_monty.MontyCrashedError as error:
            return _at_limit("time" if error.timed_out else "crash", printed.text, limits)
        except pydantic_monty.MontySyntaxError as error:
            if any(frame.line > program.count("\n") + 1 for frame in error.traceback()):
                return Outcome("error", "", "SyntaxError: unexpected end of the program")
            return _failure(error, printed, limits)
        except pydantic_monty.MontyError as error:
            return _failure(error, printed, limits)
        return Outcome("ok", printed.text)

    def _session(self) -> pydantic_monty.MontySession:
        return self._pool.checkout(
            limits={
                "max_feed_duration_secs": self._limits.time_s,
                "max_memory": self._limits.memory_mib * MIB,
                "max_recursion_depth": self._limits.call_depth,
                "max_suspensions": SUSPENSIONS_MAX,
            },
            os_policy={"sleep": "zero", "datetime": _DAY, "random_start": {"seed": 0}},
        )

    def close(self) -> None:
        """Stop the workers. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._threads.shutdown()
            self._pool.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _TooMuchOutput(Exception):
    """Raised into the program that prints more than it may."""


class _Printed:
    """Collects what a program prints, up to a limit; what comes after is thrown away."""

    def __init__(self, chars: int) -> None:
        self.text = ""
        self.full = False
        self._chars = chars

    def __call__(self, stream: str, text: str) -> None:
        self.full = self.full or len(self.text) + len(text) > self._chars
        self.text += text[: self._chars - len(self.text)]
        if self.full:
            raise _TooMuchOutput


def _confine(pid: int | None, limits: Limits) -> None:
    """A second wall, by the kernel: bounded memory, no writing to files, no core dump."""
    if pid is None or not hasattr(resource, "prlimit"):
        return
    memory = (ADDRESS_SPACE_BASE_MIB + ADDRESS_SPACE_FACTOR * limits.memory_mib) * MIB
    for kind, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.prlimit(pid, kind, (value, value))


def _failure(error: pydantic_monty.MontyError, printed: _Printed, limits: Limits) -> Outcome:
    inner = error.exception()
    message = f"{type(inner).__name__}: {inner}".removesuffix(": ")
    if printed.full:
        return _at_limit("output", printed.text, limits)
    for start, status in _LIMITS.items():
        if message.startswith(start):
            return _at_limit(status, printed.text, limits)
    return Outcome("error", printed.text, message[: limits.output_chars])


def _at_limit(status: Status, printed: str, limits: Limits) -> Outcome:
    """Always the same words: monty's own hold the milliseconds and bytes of this one run."""
    errors: dict[Status, str] = {
        "time": f"TimeoutError: stopped after {limits.time_s:g} s",
        "memory": f"MemoryError: more than {limits.memory_mib} MiB",
        "output": f"OutputError: more than {limits.output_chars} characters printed",
        "crash": "SystemError: the interpreter crashed",
    }
    return Outcome(status, printed, errors[status])
