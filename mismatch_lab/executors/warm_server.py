"""The server that workers are forked from: `python -m mismatch_lab.executors.warm_server FD`.

It holds nothing but imported modules: no model, no threads that would be missing in a fork, no
device. FD is a socket; each message is a worker's arguments, with its standard input, output and
error and its line of life. On that line the worker says its pid, and the server how it ended. Where
the other end of the line closes, the worker's session is killed; where that of FD does, all are.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mismatch_lab.engines import worker

MODULES = (
    "torch",
    "transformers.modeling_utils",
    "transformers.conversion_mapping",
    "transformers.core_model_loading",
    "transformers.loss.loss_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "mismatch_lab.engines.hf",
    "mismatch_lab.engines.fsdp",
    "mismatch_lab.engines.definition",
    "mismatch_lab.engines.recording",
    "mismatch_lab.captures.store",
)
"""What workers with transformers import before they read a checkpoint."""

LINEAR_ALGEBRA = "openblas"
"""In the file names of libraries that stop their threads before a fork and start them after it."""
SURVIVING_THREADS = ("jemalloc_bg_thd",)
"""Names of threads of libraries (here pyarrow's) that do the same."""

LONGEST_BYTES = 1 << 16


@dataclass(frozen=True)
class Child:
    """A worker that was forked."""

    pid: int
    ended: int
    """A pidfd: readable once the worker has ended."""
    life: socket.socket


def main(control: socket.socket) -> int:
    """Import, then fork workers until the program that started this ends."""
    importlib.import_module("numpy")
    each = len(_threads()) - 1
    for name in MODULES:
        importlib.import_module(name)
    if len(_threads()) > 1 + each * _libraries(LINEAR_ALGEBRA) or _holds_accelerator():
        return 1
    gc.collect()
    gc.freeze()  # or each worker's collector would copy all of it
    control.send(b"ready")
    _serve(control)
    return 0


def _serve(control: socket.socket) -> None:
    children: dict[int, Child] = {}
    with selectors.DefaultSelector() as watched:
        watched.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in watched.select():
                child = children.get(key.data) if key.data is not None else None
                if key.fileobj is control:
                    message, given, _, _ = socket.recv_fds(control, LONGEST_BYTES, 4)
                    if not message:
                        for left in children.values():
                            _end(left)
                        return
                    made = _fork(json.loads(message), given, watched)
                    children[made.pid] = made
                elif child is not None and key.fileobj is child.life:
                    watched.unregister(child.life)
                    with suppress(KeyError):  # it has ended and that was said
                        watched.unregister(child.ended)
                    _end(children.pop(child.pid))
                elif child is not None:
                    watched.unregister(child.ended)
                    _say_how_it_ended(child)


def _fork(arguments: list[str], given: list[int], watched: selectors.BaseSelector) -> Child:
    pid = os.fork()
    if pid == 0:
        inherited = [key.fd for key in watched.get_map().values()]
        watched.close()
        _work(arguments, given, inherited)
    for fd in given[:3]:
        os.close(fd)
    child = Child(pid, os.pidfd_open(pid), socket.socket(fileno=given[3]))
    watched.register(child.ended, selectors.EVENT_READ, pid)
    watched.register(child.life, selectors.EVENT_READ, pid)
    return child


def _work(arguments: list[str], given: list[int], inherited: list[int]) -> None:
    """The life of a worker, as that of `python -m mismatch_lab.engines.worker`; never returns."""
    code = 1
    try:
        os.setsid()
        for standard, fd in enumerate(given[:3]):
            os.dup2(fd, standard)
        # Not before it leads its session: who knows its pid may kill it at once.
        with socket.socket(fileno=given[3]) as life:
            life.send(json.dumps({"pid": os.getpid()}).encode())
        for fd in (*given[:3], *inherited):
            os.close(fd)
        sys.argv = [str(worker.__file__), *arguments]
        code = worker.run(arguments)
        sys.stdout.flush()
    except SystemExit as ended:  # a plugin's, say
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _say_how_it_ended(child: Child) -> None:
    """It stays unreaped: until its line of life closes, no other process gets its pid."""
    how = os.waitid(os.P_PIDFD, child.ended, os.WEXITED | os.WNOWAIT)
    assert how is not None
    code = how.si_status if how.si_code == os.CLD_EXITED else -how.si_status
    with suppress(OSError):  # nobody asks any more
        child.life.send(json.dumps({"code": code}).encode())


def _end(child: Child) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    os.kill(child.pid, signal.SIGKILL)  # before it leads its session, it has no group
    os.waitpid(child.pid, 0)
    os.close(child.ended)
    child.life.close()


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
        with suppress(OSError):
            opened.append(os.readlink(link))
    return any(path.startswith(("/dev/nvidia", "/dev/kfd", "/dev/dri")) for path in opened)


if __name__ == "__main__":
    os._exit(main(socket.socket(fileno=int(sys.argv[1]))))
