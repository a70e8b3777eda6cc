"""Workers forked from a server that has imported torch and transformers once: they start at once.

Each import takes 4 to 5 s of CPU, and a diagnosis with transformers on both sides starts five
workers. A forked worker is a process like any other: session, pipes, log, exit code.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mismatch_lab.engines.base import worker_processes
from mismatch_lab.engines.jobs import WorkerTask
from mismatch_lab.executors.environment import worker_environment
from mismatch_lab.executors.sources import sources_digest

ENGINES = ("hf", "fsdp", "definition")
"""vLLM is not among them: it starts threads and processes of its own when it is imported."""

SERVER = ("-m", "mismatch_lab.executors.warm_server")
WORKER_FILE = Path(__file__).parents[1] / "engines" / "worker.py"
LONGEST_BYTES = 1 << 16
"""Of a message between this program and the server."""


@dataclass(frozen=True)
class Setting:
    """What a process inherits or reads at its start: only while it is the same does a forked
    worker stand for a fresh one.
    """

    environment: dict[str, str]
    folder: str
    code: str

    @staticmethod
    def now() -> Setting:
        """That of a worker started now."""
        return Setting(worker_environment(), os.getcwd(), sources_digest(WORKER_FILE))


class ForkedWorker:
    """What executors use of `subprocess.Popen[str]`, for a process that is the server's child."""

    def __init__(self, pid: int, stdin: IO[str], stdout: IO[str], life: socket.socket) -> None:
        self.pid = pid
        self.stdin: IO[str] | None = stdin
        self.stdout: IO[str] | None = stdout
        self._life = life
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; that of a killed process is the negative signal.

        Raises:
            subprocess.TimeoutExpired: it has not ended by then.
        """
        if self._code is None:
            self._life.settimeout(timeout)
            try:
                said = self._life.recv(LONGEST_BYTES)
            except TimeoutError as error:
                raise subprocess.TimeoutExpired(["worker"], timeout or 0.0) from error
            except ConnectionError:
                said = b""
            if not said:  # the server was killed: nobody else ends what is left of its worker
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
            self._code = json.loads(said)["code"] if said else -signal.SIGKILL
            self._life.close()  # now the server reaps it
        return self._code

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        try:
            return self.wait(timeout=1e-6)
        except subprocess.TimeoutExpired:
            return None


class ForkServer:
    """The server process and the line to it. It ends with this program, however that ends."""

    def __init__(self) -> None:
        self.setting = Setting.now()
        began = time.perf_counter()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *SERVER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env=self.setting.environment,
            )
        try:
            self.works = bool(self._control.recv(LONGEST_BYTES))
            """False where it cannot import what it must, or must not fork."""
        except BaseException:  # interrupted
            self._process.kill()
            self.close()
            raise
        self.start_s = time.perf_counter() - began

    def fork(self, arguments: Sequence[str], errors_to: IO[str]) -> ForkedWorker | None:
        """A worker with these arguments; None where the server cannot give one."""
        stdin, stdin_ours = os.pipe()
        stdout_ours, stdout = os.pipe()
        life, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        given = [stdin, stdout, errors_to.fileno(), theirs.fileno()]
        said = b""
        with contextlib.suppress(OSError), theirs:
            socket.send_fds(self._control, [json.dumps(list(arguments)).encode()], given)
        os.close(stdin)
        os.close(stdout)
        with contextlib.suppress(ConnectionError):
            said = life.recv(LONGEST_BYTES)
        pid = json.loads(said).get("pid") if said else None
        if pid is None:
            self.works = False
            os.close(stdin_ours)
            os.close(stdout_ours)
            life.close()
            return None
        return ForkedWorker(pid, os.fdopen(stdin_ours, "w"), os.fdopen(stdout_ours), life)

    def close(self) -> None:
        """End it, and the workers that are left."""
        with contextlib.suppress(OSError):  # it is gone
            self._control.shutdown(socket.SHUT_RDWR)  # also where a fork of ours holds it open
        self._control.close()
        self._process.wait()


_opened: list[ForkServer | None] = []
"""One place while workers are warm; a server in it once it is needed."""
_lock = threading.Lock()


@contextmanager
def warm_workers(at_once: bool = False) -> Iterator[None]:
    """Within it, workers that can be are forked from a server; outermost of several wins.

    Args:
        at_once: start the server now, not with the first such worker.
    """
    if sys.platform != "linux":
        yield
        return
    outermost = not _opened
    if outermost:
        _opened.append(None)
    try:
        if at_once:
            _server()
        yield
    finally:
        server = _opened.pop() if outermost else None
        if server is not None:
            server.close()


def start_s() -> float:
    """Seconds that the server took to start; 0 where there is none."""
    server = _opened[0] if _opened else None
    return server.start_s if server is not None else 0.0


def forked(task: WorkerTask, arguments: Sequence[str], errors_to: IO[str]) -> ForkedWorker | None:
    """A worker for the task, if workers are warm and a forked one is no different from a fresh."""
    can_be = all(
        stage.spec.engine in ENGINES and stage.spec.python is None
        and worker_processes(stage.spec) == 1
        for stage in task.stages
    )  # fmt: skip
    if not _opened or not can_be:
        return None
    server = _server()
    if not server.works or server.setting != Setting.now():
        return None
    return server.fork(arguments, errors_to)


def _server() -> ForkServer:
    with _lock:
        server = _opened[0]
        if server is None:
            server = _opened[0] = ForkServer()
        return server
