"""A server that has imported what its processes need once, and forks them: they start at once.

`multiprocessing` has such a server, too, and it would not do (each was tried, on Python 3.11):

- its client works only in the process that started it: in a fork of that (a case of a scorecard
  with workers) `ensure_running` fails with ECHILD, so every case would import torch on its own;
- its children run the main module again: a program that calls `diagnose` without a guard of
  `__main__` would be run again by every worker;
- there is one in a program, shared with all libraries, with the environment and the terminal it
  was started with; a preload that fails is passed over, and none can say that it must not fork.

This one is `python -m mismatch_lab.processes.fork_server FD MODULE PRELOAD…`. It holds nothing but
imported modules: no model, no threads that would be missing in a fork, no device. FD is a socket;
each message is the arguments of a new process, whose `MODULE.run` gets them, with its channel, its
log and a line on which it says its pid, and the server how it ended.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path

LINEAR_ALGEBRA = "openblas"
"""In the file names of libraries that stop their threads before a fork and start them after it."""
SURVIVING_THREADS = ("jemalloc_bg_thd",)
"""Names of threads of libraries (here pyarrow's) that do the same."""
LONGEST_BYTES = 1 << 16
"""Of a message between a program and its server."""


class Forked:
    """What is used of `subprocess.Popen`, for a process that is the server's child."""

    def __init__(self, pid: int, line: socket.socket) -> None:
        self.pid = pid
        self._line = line
        self._code: int | None = None

    def wait(self) -> int:
        """The exit code; that of a killed process is the negative signal."""
        if self._code is None:
            said = b""
            with contextlib.suppress(ConnectionError):
                said = self._line.recv(LONGEST_BYTES)
            if not said:  # the server was killed: nobody else ends what is left of its process
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
            self._code = int(said) if said else -signal.SIGKILL
            self._line.close()
        return self._code


class ForkServer:
    """The server and the line to it. It ends with this program, however that ends."""

    def __init__(self, module: str, preload: Sequence[str], environment: Mapping[str, str]) -> None:
        began = time.perf_counter()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), module, *preload],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env=environment,
            )
        try:
            self.works = bool(self._control.recv(LONGEST_BYTES))
            """False where it cannot import what it must, or must not fork."""
        except BaseException:  # interrupted
            self.process.kill()
            self.close()
            raise
        self.start_s = time.perf_counter() - began

    def fork(self, arguments: Sequence[str], channel: int, log: int) -> Forked | None:
        """A process with these arguments, standard input and output; None where it gives none."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        said = b""
        with contextlib.suppress(OSError), theirs:
            text = json.dumps(list(arguments)).encode()
            socket.send_fds(self._control, [text], [channel, log, theirs.fileno()])
        with contextlib.suppress(ConnectionError):
            said = ours.recv(LONGEST_BYTES)
        if not said:
            self.works = False
            ours.close()
            return None
        return Forked(int(said), ours)

    def close(self) -> None:
        """End it, and the processes that are left."""
        with contextlib.suppress(OSError):  # it is gone
            self._control.shutdown(socket.SHUT_RDWR)  # also where a fork of ours holds it open
        self._control.close()
        self.process.wait()


def main(control: socket.socket, module: str, preload: Sequence[str]) -> int:
    """Import, then fork processes until the program that started this ends."""
    importlib.import_module("numpy")
    each = len(_threads()) - 1
    for name in (module, *preload):
        importlib.import_module(name)
    if len(_threads()) > 1 + each * _libraries(LINEAR_ALGEBRA) or _holds_accelerator():
        return 1
    gc.collect()
    gc.freeze()  # or each process's collector would copy all of it
    control.send(b"ready")
    children: dict[int, tuple[int, socket.socket]] = {}
    """A pidfd, readable once the process has ended -> its pid and the line to who asked for it."""
    while True:
        for ready in wait([control, *children]):
            if isinstance(ready, int):
                _say_how_it_ended(ready, *children.pop(ready))
                continue
            message, given, _, _ = socket.recv_fds(control, LONGEST_BYTES, 3)
            if not message:
                for pid, _ in children.values():
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
                return 0
            pid = os.fork()
            if pid == 0:
                control.close()
                for other, (_, line) in children.items():
                    os.close(other)
                    line.close()
                _work(module, json.loads(message), given)
            for fd in given[:2]:
                os.close(fd)
            children[os.pidfd_open(pid)] = pid, socket.socket(fileno=given[2])


def _work(module: str, arguments: list[str], given: list[int]) -> None:
    """The life of a process, as that of `python -m module`; never returns."""
    code = 1
    try:
        os.setsid()
        channel, log, line = given
        for standard, fd in enumerate((channel, log, log)):
            os.dup2(fd, standard)
        os.close(channel)
        os.close(log)
        with socket.socket(fileno=line) as said:  # now that it leads its session: it may be killed
            said.send(str(os.getpid()).encode())
        program = sys.modules[module]
        sys.argv = [str(program.__file__), *arguments]
        code = program.run(arguments)
        sys.stdout.flush()
    except SystemExit as ended:  # a plugin's, say
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _say_how_it_ended(pidfd: int, pid: int, line: socket.socket) -> None:
    os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    with line, contextlib.suppress(OSError):  # nobody asks any more
        line.send(str(os.waitstatus_to_exitcode(status)).encode())


def _threads() -> list[str]:
    """Names of this process's threads, without those that survive a fork."""
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return [name for name in names if name not in SURVIVING_THREADS]


def _libraries(part: str) -> int:
    """How many libraries with this in their name are loaded."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    files = {Path(line.split()[-1]).name for line in lines if "/" in line}
    return sum(part in name for name in files)


def _holds_accelerator() -> bool:
    """Whether an import has opened one: no fork of this process could use it."""
    opened = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            opened.append(os.readlink(link))
    return any(path.startswith(("/dev/nvidia", "/dev/kfd", "/dev/dri")) for path in opened)


if __name__ == "__main__":
    os._exit(main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], sys.argv[3:]))
