"""A worker that stays, as a real process with the fake engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import mismatch_lab
from mismatch_lab.engines.jobs import ScoreJob
from mismatch_lab.errors import EngineError, InputError, NotApplicableError
from mismatch_lab.executors.session import Session
from mismatch_lab.processes.process import Handle
from mismatch_lab.schema import Alteration, SideSpec

PATIENCE_S = 60.0
SPEC = SideSpec(side="ref", engine="fake", model="fake", dtype="float32")
PARENT = """
import sys, time
from pathlib import Path
from mismatch_lab.engines.jobs import ScoreJob
from mismatch_lab.executors.session import Session
from mismatch_lab.schema import SideSpec

spec = SideSpec(side="ref", engine="fake", model="fake", dtype="float32")
with Session(spec, Path(sys.argv[1]), "lab", Path(sys.argv[2])) as session:
    session.score(ScoreJob(id="a", source="decode"))
    print(session._process.handle.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def session(captures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Shared by tests that leave it running."""
    with Session(SPEC, captures, "lab", tmp_path_factory.mktemp("logs")) as opened:
        yield opened
    with pytest.raises(ProcessLookupError):
        os.kill(process_of(opened).pid, 0)


def job(id: str, **more: object) -> ScoreJob:
    return ScoreJob.model_validate({"id": id, "source": "decode", **more})


def process_of(session: Session) -> Handle:
    assert session._process is not None
    return session._process.handle


def test_jobs_are_scored_one_after_another_by_one_process(session: Session) -> None:
    first = session.score(job("a"))
    process = process_of(session)
    again, hotter = session.score(job("b")), session.score(job("c", temperature=2.0))
    assert process_of(session) is process
    assert first.rows.token_ids.tolist() == [65, 66, 67, 70, 71]
    np.testing.assert_array_equal(first.logp, again.logp)
    assert not np.allclose(first.logp, hotter.logp, equal_nan=True)
    assert session.score(job("d", first_rows=1)).rows.n_rows == 1


def test_what_does_not_apply_is_told_and_the_process_stays(session: Session) -> None:
    with pytest.raises(NotApplicableError, match="cannot be altered"):
        session.score(job("e", alter=(Alteration(name="drop_sinks"),)))
    assert session.score(job("e")).rows.n_rows == 2


def test_captures_are_not_kept(session: Session, captures: Path) -> None:
    session.score(job("f"))
    assert [path.name for path in captures.iterdir()] == ["decode"]
    assert list((session._scratch / "captures").iterdir()) == []


def test_a_killed_worker_is_a_clear_error(captures: Path, tmp_path: Path) -> None:
    with Session(SPEC, captures, "lab", tmp_path) as session:
        session.score(job("a"))
        os.kill(process_of(session).pid, signal.SIGKILL)
        process_of(session).wait()
        for name in ("b", "c"):  # and again, though nothing reads the job any more
            with pytest.raises(EngineError, match="lab process was killed") as raised:
                session.score(job(name))
            assert str(tmp_path / "lab.log") in raised.value.hint
        scratch = session._scratch
    assert not scratch.exists()


def test_an_engine_that_cannot_start_says_why(captures: Path, tmp_path: Path) -> None:
    wrong = SPEC.model_copy(update={"args": {"defect": "love"}})
    with (
        Session(wrong, captures, "lab", tmp_path) as session,
        pytest.raises(InputError, match="no defect 'love'"),
    ):
        session.score(job("a"))


def test_nothing_starts_before_the_first_job(captures: Path, tmp_path: Path) -> None:
    with Session(SPEC, captures, "lab", tmp_path) as session:
        assert session._process is None
    assert list(tmp_path.iterdir()) == []


def test_the_worker_ends_with_a_parent_that_is_killed(captures: Path, tmp_path: Path) -> None:
    path = str(Path(mismatch_lab.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(captures), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    ) as parent:
        assert parent.stdout is not None
        worker = Path("/proc") / parent.stdout.readline().strip()
        assert worker.name.isdigit()
        assert worker.exists()
        parent.kill()
    until = time.monotonic() + PATIENCE_S
    while worker.exists() and "State:\tZ" not in (worker / "status").read_text():
        assert time.monotonic() < until, "the worker outlived its parent"
        time.sleep(0.02)
