"""The worker process: `python -m mismatch_lab.engines.worker TASK.json`.

It writes captures and tells what it does over its channel (`processes/child.py`).
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mismatch_lab.checkpoints.config import resolve_model_path
from mismatch_lab.engines.base import ENGINE_EXTRAS, ENGINES, Engine
from mismatch_lab.engines.failures import runtime_error
from mismatch_lab.engines.jobs import MESSAGES, GenerateJob, Job, ScoreJob, Stage, WorkerTask
from mismatch_lab.errors import MismatchLabError, MissingDependencyError
from mismatch_lab.processes.child import Channel, parent_channel, serve, told
from mismatch_lab.registry import resolve
from mismatch_lab.schema import SideSpec
from mismatch_lab.schema.events import Captured, OnEvent, Progressed, StageBegan, Started


def run(arguments: Sequence[str]) -> int:
    """Run a task; 0 when all captures are there. With `--serve`, jobs come over the channel."""
    if platform.system() == "Linux":
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    channel = parent_channel(MESSAGES)
    task = WorkerTask.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8"))
    work = _serve if "--serve" in arguments[1:] else _run_task
    as_told = partial(runtime_error, spec=task.stages[0].spec, doing="working")
    return told(channel, partial(work, task, channel), as_told)


def _run_task(task: WorkerTask, channel: Channel) -> None:
    first = int(os.environ.get("RANK", 0)) == 0
    for stage in task.stages:
        _run_stage(stage, Path(task.captures_dir), channel.send if first else lambda event: None)


def _run_stage(stage: Stage, captures: Path, on_event: OnEvent) -> None:
    spec = stage.spec
    on_event(StageBegan(f"starting {spec.engine} ({spec.side}, {spec.dtype})"))
    began = time.perf_counter()
    with _told_as_theirs(spec, "starting"):
        engine = _load(spec)
    on_event(Started(spec.side, time.perf_counter() - began))
    try:
        for job in stage.jobs:
            with _told_as_theirs(spec, f"making capture {job.id}"):
                on_event(_run_job(engine, stage, job, captures, on_event))
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


def _serve(task: WorkerTask, channel: Channel) -> None:
    """Score jobs as they come."""
    stage = task.stages[0]
    captures, sources = Path(task.captures_dir), Path(task.sources_dir or task.captures_dir)
    engine = _load(stage.spec)

    def score(job: ScoreJob) -> Captured:
        return _run_job(engine, stage, job, captures, channel.send, sources)

    serve(channel, score)


def _load(spec: SideSpec) -> Engine:
    try:
        engine: Engine = resolve("engine", spec.engine, ENGINES)(
            spec.model_copy(update={"model": resolve_model_path(spec.model)})
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
    on_event: OnEvent,
    sources: Path | None = None,
) -> Captured:
    from mismatch_lab.captures.store import save_capture
    from mismatch_lab.engines.recording import manifest_of, score_job

    def progress(done: int, total: int) -> None:
        on_event(Progressed(done, total))

    on_event(StageBegan(f"{stage.spec.engine}: {job.id}"))
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
    return Captured(job.id, stage.spec.side, time.perf_counter() - began)


if __name__ == "__main__":
    code = run(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # engines leave threads behind that would keep the process
