"""Run a worker task in a process of its own, in an interpreter of its own if asked."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import mismatch_lab
from mismatch_lab import errors
from mismatch_lab.engines.base import worker_processes
from mismatch_lab.engines.jobs import WorkerTask
from mismatch_lab.errors import EngineError, InputError, MismatchLabError
from mismatch_lab.executors.environment import worker_environment
from mismatch_lab.executors.warm import forked
from mismatch_lab.schema import SideSpec

OnEvent = Callable[[dict[str, Any]], None]

WORKER = "mismatch_lab.engines.worker"
LONGEST_FOLDER = 50
"""Characters; a socket's path has 107, of which SGLang and we need half."""
LOG_LINES = 12
"""Lines of a dead worker's log that its error shows."""


class Worker(Protocol):
    """A process that runs a task: `subprocess.Popen[str]`, or one forked from a server."""

    pid: int
    stdin: IO[str] | None
    stdout: IO[str] | None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code."""
        ...

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        ...


def run_task(task: WorkerTask, name: str, logs: Path, on_event: OnEvent) -> None:
    """Run a task to its end, handing every event of the worker to `on_event`.

    Raises:
        MismatchLabError: what the worker reported, or how it died.
    """
    spec = task.stages[0].spec
    _interpreter(spec.python)
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{name}.log"
    with tempfile.TemporaryDirectory(prefix="mismatch-lab-") as scratch:
        process = start(task, spec, log, Path(scratch))
        try:
            failure = _follow(process, on_event)
            code = process.wait()
        finally:
            end(process)
    if failure is not None:
        raise as_error(failure, log)
    if code != 0:
        raise death(name, code, log)


def start(
    task: WorkerTask, spec: SideSpec, log: Path, scratch: Path, options: Sequence[str] = ()
) -> Worker:
    """A worker process that begins a task; its standard error goes to `log`.

    Raises:
        InputError: the side's interpreter does not exist.
    """
    task_file = scratch / "task.json"
    task_file.write_text(task.model_dump_json(), encoding="utf-8")
    launcher = _launcher(worker_processes(spec))
    arguments = [str(task_file), *options]
    with log.open("w", encoding="utf-8") as errors_to:
        return forked(task, arguments, errors_to) or subprocess.Popen(
            [_interpreter(spec.python), *launcher, WORKER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors_to,
            text=True,
            start_new_session=True,
            env=_environment(scratch, spec),
        )


def _interpreter(python: str | None) -> str:
    if python is None:
        return sys.executable
    if not Path(python).is_file() or not os.access(python, os.X_OK):
        raise InputError(f"Interpreter {python} does not exist or cannot be executed.")
    return python


def _launcher(processes: int) -> list[str]:
    if processes == 1:
        return ["-m"]
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]


def _environment(scratch: Path, spec: SideSpec) -> dict[str, str]:
    """A foreign interpreter finds this package, and only it, through a link.

    SGLang leaves its sockets where temporary files go: that is the scratch folder, which is removed
    whatever happens, as long as names of sockets have room there.
    """
    environment = worker_environment()
    if spec.engine == "sglang" and len(str(scratch)) < LONGEST_FOLDER:
        environment["TMPDIR"] = str(scratch)
    if spec.python is not None:
        package = Path(mismatch_lab.__file__).resolve().parent
        (scratch / "path").mkdir()
        (scratch / "path" / "mismatch_lab").symlink_to(package)
        environment["PYTHONPATH"] = str(scratch / "path")
    return environment


def _follow(process: Worker, on_event: OnEvent) -> dict[str, Any] | None:
    failure = None
    assert process.stdout is not None
    for line in process.stdout:
        if not line.startswith("{"):
            continue  # torchrun prints too
        event = json.loads(line)
        if event["event"] == "error":
            failure = failure or event
        else:
            on_event(event)
    return failure


def as_error(event: dict[str, Any], log: Path) -> MismatchLabError:
    """What the worker reported, as the exception it was."""
    kind = getattr(errors, event["kind"], EngineError)
    hint = event["hint"]
    return kind(event["problem"], f"{hint}\nLog: {log}" if hint else f"Log: {log}")


def death(name: str, code: int, log: Path) -> EngineError:
    """How a worker died that reported nothing."""
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


def end(process: Worker) -> None:
    """Whatever happened, nothing of the worker's session is left."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # a dead worker's, with a job unread in it
                pipe.close()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
