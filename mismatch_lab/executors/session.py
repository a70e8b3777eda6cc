"""A worker that stays: one engine loaded once, jobs handed to it one at a time.

The search for a cause decides each experiment from the results of those before it; loading the
model anew for each would cost more than all of them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.store import load_capture
from mismatch_lab.engines.jobs import ScoreJob, Stage, WorkerTask
from mismatch_lab.errors import NotApplicableError
from mismatch_lab.executors import local
from mismatch_lab.schema import SideSpec


class Session:
    """An engine in a process of its own that scores what it is asked to.

    Use as a context manager; the process starts with the first job.
    """

    def __init__(self, spec: SideSpec, captures: Path, name: str, logs: Path) -> None:
        """Args: `captures` holds the sources of jobs; what jobs record is not kept on disk."""
        self.spec = spec
        self.captures = captures
        self.name = name
        self.log = logs / f"{name}.log"
        self._process: local.Worker | None = None
        self._scratch = Path(tempfile.mkdtemp(prefix="mismatch-lab-session-"))

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            local.end(self._process)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def score(self, job: ScoreJob) -> Capture:
        """Run one job.

        Raises:
            NotApplicableError: the model has no part that the job alters.
            MismatchLabError: what the worker reported, or how it died.
        """
        process = self._started()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer says how it died
            process.stdin.write(job.model_dump_json() + "\n")
            process.stdin.flush()
        self._await(process, "captured")
        folder = self._scratch / "captures" / job.id
        capture, _ = load_capture(folder)
        shutil.rmtree(folder)
        return capture

    def _started(self) -> local.Worker:
        if self._process is None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            (self._scratch / "captures").mkdir()
            task = WorkerTask(
                captures_dir=str(self._scratch / "captures"),
                stages=[Stage(spec=self.spec, jobs=[])],
                sources_dir=str(self.captures.resolve()),
            )
            self._process = local.start(task, self.spec, self.log, self._scratch, ["--serve"])
            self._await(self._process, "started")
        return self._process

    def _await(self, process: local.Worker, wanted: str) -> dict[str, Any]:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("{"):
                continue
            event: dict[str, Any] = json.loads(line)
            if event["event"] == wanted:
                return event
            if event["event"] == "error":
                if event["kind"] == NotApplicableError.__name__:
                    raise NotApplicableError(event["problem"])
                raise local.as_error(event, self.log)
        raise local.death(self.name, process.wait(), self.log)
