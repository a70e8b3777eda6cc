"""A worker that stays: one engine loaded once, jobs handed to it one at a time.

The search for a cause decides each experiment from the results of those before it; loading the
model anew for each would cost more than all of them.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.store import load_capture
from mismatch_lab.engines.jobs import ScoreJob, Stage, WorkerTask
from mismatch_lab.executors import local
from mismatch_lab.executors.cache import size_bytes, task_key
from mismatch_lab.executors.kept import KEPT_BYTES, experiment_name, is_there
from mismatch_lab.processes.process import Process
from mismatch_lab.schema import SideSpec
from mismatch_lab.schema.events import Captured


class Session(AbstractContextManager["Session"]):
    """An engine in a process of its own that scores what it is asked to.

    Use as a context manager; the process starts with the first job.
    """

    def __init__(
        self, spec: SideSpec, captures: Path, name: str, logs: Path, keep: Path | None = None
    ) -> None:
        """Args:
        spec: the engine.
        captures: holds the sources of jobs.
        name: of the session, in errors and for its log.
        logs: folder of logs.
        keep: where to keep what jobs record, for a run that goes on after this one is killed; None,
            and where not all that it depends on can be seen: nowhere.
        """
        self.spec = spec
        self.captures = captures
        self.name = name
        self.logs = logs
        self._process: Process | None = None
        self._scratch = Path(tempfile.mkdtemp(prefix="mismatch-lab-session-"))
        self._task = WorkerTask(
            captures_dir=str((keep or self._scratch / "captures").resolve()),
            stages=[Stage(spec=spec, jobs=[])],
            sources_dir=str(captures.resolve()),
        )
        self._key = task_key(self._task) if keep is not None else None
        self._made = Path(self._task.captures_dir)
        self._kept_bytes = 0

    def __exit__(self, *_error: object) -> None:
        if self._process is not None:
            self._process.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def score(self, job: ScoreJob) -> Capture:
        """Run one job.

        Raises:
            NotApplicableError: the model has no part that the job alters.
            MismatchLabError: what the worker reported, or how it died.
        """
        if self._key is not None:
            job = job.model_copy(update={"id": experiment_name(self._key, job, self.captures)})
            if is_there(self._made, [job.id]):
                return load_capture(self._made / job.id)[0]
        if self._process is None:
            self._made.mkdir(parents=True, exist_ok=True)
            self._process = local.start(
                self._task, self.name, self.logs, self._scratch, ["--serve"]
            )
        self._process.ask(job, Captured)
        folder = self._made / job.id
        capture, _ = load_capture(folder)
        self._kept_bytes += size_bytes(folder)
        if self._key is None or self._kept_bytes > KEPT_BYTES:
            shutil.rmtree(folder)
        return capture
