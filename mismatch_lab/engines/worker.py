"""The worker process: `python -m mismatch_lab.engines.worker TASK.json`.

It writes captures and prints one JSON event a line on its standard output; everything that
libraries print goes to standard error. It ends when its standard input closes, so that no engine
outlives the program that started it.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mismatch_lab.engines.base import ENGINE_EXTRAS, ENGINES, Engine
from mismatch_lab.engines.checkpoint import locate
from mismatch_lab.engines.failures import runtime_error
from mismatch_lab.engines.jobs import GenerateJob, Job, ScoreJob, Stage, WorkerTask
from mismatch_lab.errors import MismatchLabError, MissingDependencyError, NotApplicableError
from mismatch_lab.registry import resolve
from mismatch_lab.schema import SideSpec

Emit = Callable[..., None]


def run(arguments: Sequence[str]) -> int:
    """The command line of this module; returns the exit code."""
    if platform.system() == "Linux":
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return main(arguments[0], serve="--serve" in arguments[1:])


def main(task_file: str, serve: bool = False) -> int:
    """Run a task; 0 when all captures are there. With `serve`, jobs come on standard input."""
    emit = private_output()
    task = WorkerTask.model_validate_json(Path(task_file).read_text(encoding="utf-8"))
    try:
        if serve:
            _serve(task, emit)
            return 0
        _end_with_parent()
        for stage in task.stages:
            _run_stage(stage, Path(task.captures_dir), emit)
    except MismatchLabError as error:
        traceback.print_exc()
        emit(event="error", kind=type(error).__name__, problem=error.problem, hint=error.hint)
        return 2
    except Exception as error:
        traceback.print_exc()
        told = runtime_error(error, task.stages[0].spec, "working")
        emit(event="error", kind="EngineError", problem=told.problem, hint=told.hint)
        return 2
    return 0


def _run_stage(stage: Stage, captures: Path, emit: Emit) -> None:
    spec = stage.spec
    emit(event="stage", text=f"starting {spec.engine} ({spec.side}, {spec.dtype})")
    began = time.perf_counter()
    with _told_as_theirs(spec, "starting"):
        engine = _load(spec)
    emit(event="started", side=spec.side, wall_s=time.perf_counter() - began)
    try:
        for job in stage.jobs:
            began = time.perf_counter()
            with _told_as_theirs(spec, f"making capture {job.id}"):
                _run_job(engine, stage, job, captures, emit)
            emit(event="captured", id=job.id, side=spec.side, wall_s=time.perf_counter() - began)
    finally:
        engine.close()


@contextmanager
def _told_as_theirs(spec: SideSpec, doing: str) -> Iterator[None]:
    try:
        yield
    except MismatchLabError:
        raise
    except Exception as error:
        raise runtime_error(error, spec, doing) from error


def _serve(task: WorkerTask, emit: Emit) -> None:
    """Score jobs as they come, a JSON line each, until standard input closes."""
    stage = task.stages[0]
    jobs = lines_of_parent()
    engine = _load(stage.spec)
    emit(event="started", side=stage.spec.side)
    captures, sources = Path(task.captures_dir), Path(task.sources_dir or task.captures_dir)
    while True:
        job = ScoreJob.model_validate_json(jobs.get())
        try:
            _run_job(engine, stage, job, captures, emit, sources)
        except NotApplicableError as error:
            emit(event="error", kind=type(error).__name__, problem=error.problem, hint="")
        else:
            emit(event="captured", id=job.id)


def lines_of_parent() -> queue.Queue[str]:
    """Lines of standard input; the process ends with it, whatever it is doing."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(3)

    threading.Thread(target=read, daemon=True).start()
    return lines


def _load(spec: SideSpec) -> Engine:
    try:
        engine: Engine = resolve("engine", spec.engine, ENGINES)(
            spec.model_copy(update={"model": locate(spec.model)})
        )
    except ModuleNotFoundError as error:
        extra = ENGINE_EXTRAS.get(spec.engine)
        if extra is None:
            raise
        raise MissingDependencyError(
            f"Engine {spec.engine} needs {error.name}, which {sys.executable} does not have.",
            f"pip install 'mismatch-lab[{extra}]'; or name an interpreter that has it with "
            "--engine-python or --trainer-python.",
        ) from error
    return engine


def _run_job(
    engine: Engine,
    stage: Stage,
    job: Job,
    captures: Path,
    emit: Emit,
    sources: Path | None = None,
) -> None:
    from mismatch_lab.captures.store import save_capture
    from mismatch_lab.engines.recording import manifest_of, score_job

    def progress(done: int, total: int) -> None:
        emit(event="progress", id=job.id, done=done, total=total)

    emit(event="stage", text=f"{stage.spec.engine}: {job.id}")
    began = time.perf_counter()
    if isinstance(job, GenerateJob):
        capture = engine.generate(job.prompts, job.sampling, progress)
    else:
        capture = score_job(engine, job, sources or captures, progress)
    if int(os.environ.get("RANK", 0)) == 0:
        wall_s = time.perf_counter() - began
        save_capture(
            captures / job.id, capture, manifest_of(engine, stage.spec, job, capture, wall_s)
        )
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        import torch.distributed as dist

        dist.barrier()  # the next job may read this capture


def private_output() -> Emit:
    """Keep the real standard output for events; prints of libraries go to standard error."""
    rank = int(os.environ.get("RANK", 0))
    stream = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)

    def emit(**event: Any) -> None:
        if rank == 0 or event.get("event") == "error":
            stream.write(json.dumps(event) + "\n")
            stream.flush()

    return emit


def _end_with_parent() -> None:
    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(3)

    if os.environ.get("MISMATCH_LAB_WATCH_STDIN") == "1":
        threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    code = run(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # engines leave threads behind that would keep the process
