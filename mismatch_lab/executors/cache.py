"""Worker tasks that ran before, with the same input, are not run again: their captures are copied.

What a task's captures depend on goes into its key: the task itself, the files of its checkpoints
and plugins, the captures it reads, the code that the worker imports, package versions, machine and
environment. A task with anything that the key cannot see is never cached.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mismatch_lab.captures.store import MANIFEST, load_manifest
from mismatch_lab.checkpoints.config import checkpoint_state, resolve_model_path
from mismatch_lab.engines.jobs import GenerateJob, Job, WorkerTask
from mismatch_lab.engines.plugin import check_plugin
from mismatch_lab.engines.provenance import package_versions
from mismatch_lab.errors import CaptureError
from mismatch_lab.executors.forked import WORKER_FILE
from mismatch_lab.executors.local import run_task
from mismatch_lab.executors.sources import foreign_imports, sources_digest
from mismatch_lab.schema import SideSpec
from mismatch_lab.schema.events import Captured, OnEvent

FORMAT = 1
"""Of the key; another one makes every old entry a miss."""
LIMIT_BYTES = 4 << 30
"""Entries that were not used for longest go when the cache is larger."""

DONE = "task.json"
"""Written last into an entry: its captures' names and the seconds that the task took."""

ENVIRONMENT_PREFIXES = ("VLLM_", "OMP_", "MKL_", "TORCH", "PYTORCH_", "CUDA_", "HF_", "NCCL_")
KNOWN_PACKAGES = {"torch", "transformers", "vllm", "sglang", "numpy", "safetensors"}
"""What a plugin may import beside the standard library: their versions are in the key."""


def run_cached(
    task: WorkerTask, name: str, logs: Path, on_event: OnEvent, cache: Path | None
) -> float:
    """Run a task, or copy its captures from `cache`; the seconds it takes where it is run.

    Raises:
        MismatchLabError: what the worker reported, or how it died.
    """
    key = task_key(task) if cache is not None else None
    if cache is None or key is None:
        return _run(task, name, logs, on_event)
    entry = cache / key
    found = _restore(entry, task, on_event)
    if found is not None:
        return found
    wall_s = _run(task, name, logs, on_event)
    _store(entry, task, wall_s)
    _prune(cache, LIMIT_BYTES)
    return wall_s


def task_key(task: WorkerTask) -> str | None:
    """A digest of all that the task's captures depend on; None where something cannot be seen."""
    asked = task.model_dump(mode="json", exclude={"captures_dir", "sources_dir"})
    jobs = [job for stage in task.stages for job in stage.jobs]
    plugins = [stage.spec.plugin for stage in task.stages if stage.spec.plugin is not None]
    files = [check_plugin(plugin)[0] for plugin in plugins]
    named = _states([*_strings(asked), *(text for path in files for text in _constants(path))])
    if named is None or not all(_is_seen(stage.spec) for stage in task.stages):
        return None
    parts = {
        "format": FORMAT,
        "task": asked,
        "named": named,
        "sources": sources_of(jobs, Path(task.sources_dir or task.captures_dir)),
        "code": [sources_digest(path) for path in (WORKER_FILE, *files)],
        "packages": package_versions(),
        "machine": [platform.node(), platform.machine(), os.cpu_count(), platform.python_version()],
        "environment": {k: v for k, v in os.environ.items() if k.startswith(ENVIRONMENT_PREFIXES)},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _is_seen(spec: SideSpec) -> bool:
    """Whether everything the side reads is in the key."""
    if spec.urls:  # what a server is, and whether it is still the same, it alone knows
        return False
    if spec.program is not None:  # what it imports and reads is its own affair
        return False
    if spec.python is not None:  # its packages are not those of this interpreter
        return False
    if not checkpoint_state(spec.model) and spec.engine != "fake":
        return False  # a hub name: what it stands for may change
    return spec.plugin is None or foreign_imports(check_plugin(spec.plugin)[0]) <= KNOWN_PACKAGES


def _states(texts: list[str]) -> dict[str, Any] | None:
    """Size and time of every file that one of the texts names; None for a folder of folders."""
    states: dict[str, Any] = {}
    for text in {
        resolve_model_path(text) for text in texts if os.path.exists(resolve_model_path(text))
    }:
        path = Path(text)
        if path.is_dir() and any(child.is_dir() for child in path.iterdir()):
            return None
        stat = path.stat()
        states[text] = checkpoint_state(text) or [stat.st_size, stat.st_mtime_ns]
    return states


def _strings(value: Any) -> list[str]:
    """Every string in a JSON value, names of fields left out."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [text for part in value for text in _strings(part)] if isinstance(value, list) else []


def _constants(path: Path) -> list[str]:
    """String constants of a plugin that could be paths."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    texts = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return [text for text in texts if isinstance(text, str) and os.sep in text]


def sources_of(jobs: Sequence[Job], captures: Path) -> dict[str, str]:
    """Checksums of the captures that jobs read and do not make."""
    scored = [job for job in jobs if not isinstance(job, GenerateJob)]
    named = ((job.source, job.replay_from, job.routing_from) for job in scored)
    read = {name for names in named for name in names if name is not None}
    return {
        name: load_manifest(captures / name).arrays_sha256
        for name in sorted(read - {job.id for job in jobs})
    }


def _run(task: WorkerTask, name: str, logs: Path, on_event: OnEvent) -> float:
    began = time.perf_counter()
    run_task(task, name, logs, on_event)
    return time.perf_counter() - began


def _restore(entry: Path, task: WorkerTask, on_event: OnEvent) -> float | None:
    """Copies, not links: what is done to a run's captures must not reach the cache."""
    try:
        mark = (entry / DONE).open(encoding="utf-8")
    except FileNotFoundError:
        return None
    captures = Path(task.captures_dir)
    with mark:
        try:
            done = json.load(mark)
            captures.mkdir(parents=True, exist_ok=True)
            for event in done["events"]:
                temporary = _partial(captures, event["id"])
                shutil.rmtree(temporary, ignore_errors=True)
                shutil.copytree(entry / event["id"], temporary)
                temporary.rename(captures / event["id"])
            os.utime(entry / DONE)
            # Pruning takes the mark first: while this one is in its place, all was there to copy.
            if not os.path.samestat(os.fstat(mark.fileno()), (entry / DONE).stat()):
                raise FileNotFoundError(f"{entry} was pruned, and stored again")
        except OSError:  # pruned by another program meanwhile
            for job in (job for stage in task.stages for job in stage.jobs):
                shutil.rmtree(_partial(captures, job.id), ignore_errors=True)
                shutil.rmtree(captures / job.id, ignore_errors=True)
            return None
    for event in done["events"]:
        on_event(Captured(**event, cached=True))
    return float(done["wall_s"])


def _partial(captures: Path, name: str) -> Path:
    return captures / f".{name}.partial"


def _store(entry: Path, task: WorkerTask, wall_s: float) -> None:
    """An entry is there whole or not at all; of two programs that store it, the first wins."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=entry.parent))
    captures, events = Path(task.captures_dir), []
    try:
        for stage in task.stages:
            for job in stage.jobs:
                if not (captures / job.id / MANIFEST).is_file():
                    raise CaptureError(f"{captures / job.id} is missing after its task.")
                shutil.copytree(captures / job.id, temporary / job.id)
                seconds = load_manifest(captures / job.id).wall_s
                events.append({"id": job.id, "side": stage.spec.side, "wall_s": seconds})
        (temporary / DONE).write_text(
            json.dumps({"wall_s": wall_s, "events": events}), encoding="utf-8"
        )
        temporary.rename(entry)
    except OSError:  # stored by another program, or no room: the run has its captures
        shutil.rmtree(temporary, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _prune(cache: Path, limit_bytes: int) -> None:
    """Other programs store and prune here too: what is gone by the time it is looked at is gone."""
    whole = [entry for entry in cache.iterdir() if not entry.name.startswith(".")]
    used = {entry: at for entry in whole if (at := _used_at(entry)) is not None}
    total = 0
    for entry in sorted(used, key=used.__getitem__, reverse=True):
        total += size_bytes(entry)
        if total > limit_bytes:
            (entry / DONE).unlink(missing_ok=True)  # first: without it the entry counts as absent
            shutil.rmtree(entry, ignore_errors=True)


def _used_at(entry: Path) -> float | None:
    """None where the entry is not whole, or no longer."""
    try:
        return (entry / DONE).stat().st_mtime
    except FileNotFoundError:
        return None


def size_bytes(folder: Path) -> int:
    """Of what is still there."""
    total = 0
    for parent, _, names in os.walk(folder):  # passes over folders that vanish
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total
