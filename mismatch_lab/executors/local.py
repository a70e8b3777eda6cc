"""Run a worker task in a process of its own, in an interpreter of its own if asked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import mismatch_lab
from mismatch_lab.engines.base import worker_processes
from mismatch_lab.engines.jobs import MESSAGES, WorkerTask
from mismatch_lab.errors import InputError
from mismatch_lab.executors.forked import WORKER, server_for
from mismatch_lab.processes import process
from mismatch_lab.processes.process import Process, environment_of_workers
from mismatch_lab.schema import SideSpec
from mismatch_lab.schema.events import OnEvent

LONGEST_FOLDER = 50
"""Characters; a socket's path has 107, of which SGLang and we need half."""


def run_task(task: WorkerTask, name: str, logs: Path, on_event: OnEvent) -> None:
    """Run a task to its end, handing every event of the worker to `on_event`.

    Raises:
        MismatchLabError: what the worker reported, or how it died.
    """
    with (
        tempfile.TemporaryDirectory(prefix="mismatch-lab-") as scratch,
        closing(start(task, name, logs, Path(scratch))) as worker,
    ):
        worker.follow(on_event)


def start(
    task: WorkerTask, name: str, logs: Path, scratch: Path, options: Sequence[str] = ()
) -> Process:
    """A worker process that begins a task, of its first stage's interpreter.

    Raises:
        InputError: the interpreter does not exist.
    """
    spec = task.stages[0].spec
    python = spec.python
    if python is not None and not (Path(python).is_file() and os.access(python, os.X_OK)):
        raise InputError(f"Interpreter {python} does not exist or cannot be executed.")
    task_file = scratch / "task.json"
    task_file.write_text(task.model_dump_json(), encoding="utf-8")
    return process.start(
        name,
        WORKER,
        [str(task_file), *options],
        logs / f"{name}.log",
        MESSAGES,
        python=python,
        ranks=worker_processes(spec),
        environment=_environment(scratch, spec),
        server=server_for(task),
    )


def _environment(scratch: Path, spec: SideSpec) -> dict[str, str]:
    """A foreign interpreter finds this package, and only it, through a link.

    SGLang leaves its sockets where temporary files go: that is the scratch folder, which is removed
    whatever happens, as long as names of sockets have room there.
    """
    environment = environment_of_workers()
    if spec.engine == "sglang" and len(str(scratch)) < LONGEST_FOLDER:
        environment["TMPDIR"] = str(scratch)
    if spec.python is not None:
        package = Path(mismatch_lab.__file__).resolve().parent
        (scratch / "path").mkdir()
        (scratch / "path" / "mismatch_lab").symlink_to(package)
        environment["PYTHONPATH"] = str(scratch / "path")
    return environment
