"""What a killed diagnosis measured is kept in its folder, and used by the run that goes on there.

A task's captures count if their key (`executors.cache.task_key`) is that of the task now asked for:
same options, checkpoints, plugins, packages, code and machine. What a key cannot see, a server
above all, is measured again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mismatch_lab.captures.store import MANIFEST, load_manifest
from mismatch_lab.engines.jobs import ScoreJob, WorkerTask
from mismatch_lab.executors.cache import sources_of, task_key
from mismatch_lab.schema import write_whole
from mismatch_lab.schema.events import Captured, OnEvent

KEPT_FILE = "kept.json"
"""Of a run's folder, while it runs: task -> its key and its captures."""
EXPERIMENTS = "experiments"
"""Folder of a run for captures of experiments; gone when the run is finished."""
KEPT_BYTES = 4 * 2**30
"""What experiments may keep on disk: a run of a large vocabulary would fill any. What comes after
that is run again if the diagnosis is killed."""

KEY_DIGITS = 32
"""Of a name made from a key: two of 10^9 experiments agree by chance once in 10^20 runs."""


class KeptTasks:
    """Runs the tasks of a run's folder that it does not hold whole."""

    def __init__(self, out: Path) -> None:
        self._file = out / KEPT_FILE
        self._tasks: dict[str, dict[str, Any]] = {}
        if self._file.is_file():
            self._tasks = json.loads(self._file.read_text(encoding="utf-8"))

    def run(
        self, task: WorkerTask, name: str, on_event: OnEvent, run: Callable[[], float]
    ) -> float:
        """Seconds that the task took, now or when it was run.

        Args:
            task: whose captures are wanted.
            name: of the task in this run.
            on_event: is told of captures that are there.
            run: runs it.
        """
        key = task_key(task)
        if key is not None and self._holds(task, name, key):
            return _told(task, on_event)
        made = _ids(task)
        # What is written over, or half written when the run is killed, is nobody's any more.
        self._write({n: t for n, t in self._tasks.items() if not set(made) & set(t["captures"])})
        for id in made:
            shutil.rmtree(Path(task.captures_dir) / id, ignore_errors=True)
        seconds = run()
        if key is not None:
            self._write({**self._tasks, name: {"key": key, "captures": made}})
        return seconds

    def sweep(self, captures: Path) -> None:
        """Remove captures that no whole task made."""
        whole = {name for task in self._tasks.values() for name in task["captures"]}
        for folder in captures.iterdir() if captures.is_dir() else ():
            if folder.name not in whole:
                shutil.rmtree(folder)

    def _holds(self, task: WorkerTask, name: str, key: str) -> bool:
        there = is_there(Path(task.captures_dir), _ids(task))
        return there and self._tasks.get(name, {}).get("key") == key

    def _write(self, tasks: dict[str, dict[str, Any]]) -> None:
        self._tasks = tasks
        write_whole(self._file, json.dumps(tasks))


def _ids(task: WorkerTask) -> list[str]:
    return [job.id for stage in task.stages for job in stage.jobs]


def _told(task: WorkerTask, on_event: OnEvent) -> float:
    seconds = 0.0
    for stage in task.stages:
        for job in stage.jobs:
            wall_s = load_manifest(Path(task.captures_dir) / job.id).wall_s
            seconds += wall_s
            on_event(Captured(job.id, stage.spec.side, wall_s, cached=True))
    return seconds


def experiment_name(session_key: str, job: ScoreJob, captures: Path) -> str:
    """Of a simulation's capture: equal for equal jobs of equal sessions on equal tokens."""
    asked = job.model_dump(mode="json", exclude={"id"})
    parts = [session_key, asked, sources_of([job], captures)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]


def is_there(folder: Path, ids: Iterable[str]) -> bool:
    """Whether captures of these names lie whole in a folder."""
    return all((folder / id / MANIFEST).is_file() for id in ids)


def forget(out: Path) -> None:
    """Remove what was kept for a run that would go on; it is finished."""
    (out / KEPT_FILE).unlink(missing_ok=True)
    shutil.rmtree(out / EXPERIMENTS, ignore_errors=True)
