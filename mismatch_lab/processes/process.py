"""A process of this program: started, asked and followed, and nothing of it is left at its end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, TypeVar

from mismatch_lab.errors import EngineError
from mismatch_lab.processes.child import Channel
from mismatch_lab.processes.fork_server import Forked, ForkServer
from mismatch_lab.processes.messages import Failed, Messages

Answer = TypeVar("Answer")

CURRENT_TEST = "PYTEST_CURRENT_TEST"
"""Another one in each test where diagnoses run within pytest, which no engine reads: with it no
worker could be forked from a server that an earlier test started."""
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""OpenMP threads that wait give up their core. Where other programs run too, spinning ones made the
small model's forwards here ten times slower (0.6 s against 5 to 27 s)."""

LOG_LINES = 12
"""Lines of a dead process's log that its error shows."""

Handle = subprocess.Popen[bytes] | Forked


class Process:
    """A process with a session, a log and a channel of its own."""

    def __init__(self, name: str, handle: Handle, channel: Channel, log: Path) -> None:
        self.name = name
        self.handle = handle
        self.log = log
        self._channel = channel

    def ask(self, request: Any, wanted: type[Answer], within_s: float | None = None) -> Answer:
        """The answer to a request, of a type; what else is told before it is passed over.

        Raises:
            MismatchLabError: what the process reported, how it died, or that it is late.
        """
        with contextlib.suppress(OSError):  # the answer says how it died
            self._channel.send(request)
        until = None if within_s is None else time.monotonic() + within_s
        while (message := self._next(until)) is not None:
            if isinstance(message, wanted):
                return message
        raise death(self.name, self._ended(), self.log)

    def follow(self, on_message: Callable[[Any], None]) -> None:
        """Hand on what it tells until it has ended.

        Raises:
            MismatchLabError: what it reported, or how it died.
        """
        while (message := self._next()) is not None:
            on_message(message)
        code = self._ended()
        if code != 0:
            raise death(self.name, code, self.log)

    def _ended(self) -> int:
        """The exit code. What it has left of its session goes at once: once that is empty, its
        number may be another process's.
        """
        code = self.handle.wait()
        self.close()
        return code

    def _next(self, until: float | None = None) -> Any:
        """The next message; None where no more will come."""
        try:
            left = None if until is None else max(0.0, until - time.monotonic())
            message = self._channel.receive(left)
        except EOFError:
            return None
        except TimeoutError as error:
            late = f"The {self.name} process did not answer in time."
            raise EngineError(late, f"Log: {self.log}") from error
        if isinstance(message, Failed):
            raise message.error(self.log)
        return message

    def close(self) -> None:
        """Whatever happened, nothing of its session is left. A second call does nothing."""
        if not self._channel.closed:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.handle.pid, signal.SIGKILL)
            self._channel.close()  # ends torchrun's ranks, which have sessions of their own
            self.handle.wait()


def start(
    name: str,
    module: str,
    arguments: Sequence[str],
    log: Path,
    messages: Messages,
    environment: Mapping[str, str],
    *,
    python: str | None = None,
    ranks: int = 1,
    server: ForkServer | None = None,
    log_mode: str = "w",
) -> Process:
    """`python -m module` with a channel to it.

    Args:
        name: in errors.
        module: whose main opens `child.parent_channel`.
        arguments: of its command line.
        log: gets its standard output and error.
        messages: that it and this program send.
        environment: its own, all of it.
        python: interpreter; None is this one.
        ranks: torchrun starts so many if more than one.
        server: that forks it, if it can.
        log_mode: of `open`.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    ours, theirs = Pipe()
    log.parent.mkdir(parents=True, exist_ok=True)
    with theirs, log.open(log_mode, encoding="utf-8") as output:
        handle: Handle | None = None
        if server is not None:
            handle = server.fork(arguments, theirs.fileno(), output.fileno())
        if handle is None:
            program = [python or sys.executable, *(launcher if ranks > 1 else []), "-m", module]
            handle = subprocess.Popen(
                [*program, *arguments],
                stdin=theirs.fileno(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )
    return Process(name, handle, Channel(ours, messages), log)


def environment_of_workers() -> dict[str, str]:
    """This program's, with what every worker needs."""
    own = {name: value for name, value in os.environ.items() if name != CURRENT_TEST}
    return PATIENT | own | {"PYTHONUNBUFFERED": "1"}


def death(name: str, code: int, log: Path) -> EngineError:
    """How a process died that reported nothing."""
    with log.open(encoding="utf-8", errors="replace") as stream:
        last = "".join(deque(stream, LOG_LINES)).rstrip()
    missing = re.findall(r"No module named '?([\w.]+)", last)
    if missing and code == 1:
        return EngineError(
            f"The {name} process could not start: no module named {missing[-1]!r}.",
            f"Install it in the interpreter that runs this side.\nLog: {log}",
        )
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return EngineError(
            f"The {name} process was killed, most likely for memory.",
            f"Use a smaller model, --max-tokens or fewer prompts.\nLog: {log}",
        )
    crashed = _signal_of(code)
    if crashed:
        return EngineError(
            f"The {name} process crashed in native code ({crashed}), which no Python of it or of "
            f"mismatch-lab reported. Its last words:\n{last}",
            "What runs there is the engine's own: another engine (--engine hf), dtype or model "
            f"size may run.\nLog: {log}",
        )
    return EngineError(f"The {name} process ended with code {code}:\n{last}", f"Log: {log}")


def _signal_of(code: int) -> str:
    """Name of the signal that ended a process by its own fault; empty for any other end."""
    number = -code if code < 0 else code - 128
    faults = (signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGBUS)
    return next((fault.name for fault in faults if fault == number), "")
