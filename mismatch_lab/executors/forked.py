"""Workers forked from a server that has imported torch and transformers once: they start at once.

Each import takes 4 to 5 s of CPU, and a diagnosis with transformers on both sides starts five
workers. A forked worker is a process like any other: session, channel, log, exit code.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mismatch_lab.engines.base import worker_processes
from mismatch_lab.engines.jobs import WorkerTask
from mismatch_lab.executors.sources import sources_digest
from mismatch_lab.processes.fork_server import ForkServer
from mismatch_lab.processes.process import environment_of_workers

WORKER = "mismatch_lab.engines.worker"
WORKER_FILE = Path(__file__).parents[1] / "engines" / "worker.py"

ENGINES = ("hf", "fsdp", "definition")
"""vLLM is not among them: it starts threads and processes of its own when it is imported."""

PRELOAD = (
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


Setting = tuple[dict[str, str], str, str]
"""Environment, folder and code: what a process inherits or reads at its start. Only while it is the
same does a forked worker stand for a fresh one."""


def _setting() -> Setting:
    return environment_of_workers(), os.getcwd(), sources_digest(WORKER_FILE)


_opened: list[tuple[ForkServer, Setting] | None] = []
"""One place while workers are forked; a server in it once it is needed."""
_lock = threading.Lock()


@contextmanager
def forked_workers(at_once: bool = False) -> Iterator[None]:
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
        opened = _opened.pop() if outermost else None
        if opened is not None:
            opened[0].close()


def start_s() -> float:
    """Seconds that the server took to start; 0 where there is none."""
    opened = _opened[0] if _opened else None
    return opened[0].start_s if opened is not None else 0.0


def server_for(task: WorkerTask) -> ForkServer | None:
    """The server, if workers are forked and a forked one is no different from a fresh one."""
    can_be = all(
        stage.spec.engine in ENGINES and stage.spec.python is None
        and worker_processes(stage.spec) == 1
        for stage in task.stages
    )  # fmt: skip
    if not _opened or not can_be:
        return None
    server, setting = _server()
    return server if server.works and setting == _setting() else None


def _server() -> tuple[ForkServer, Setting]:
    with _lock:
        opened = _opened[0]
        if opened is None:
            setting = _setting()
            opened = _opened[0] = ForkServer(WORKER, PRELOAD, setting[0]), setting
        return opened
