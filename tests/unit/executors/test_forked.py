"""Workers forked from a server: like fresh ones in all but the time that they take to start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import mismatch_lab
from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.store import load_capture
from mismatch_lab.engines.jobs import ScoreJob, Stage, WorkerTask
from mismatch_lab.errors import EngineError, InputError
from mismatch_lab.executors import forked, local
from mismatch_lab.executors.session import Session
from mismatch_lab.processes.fork_server import Forked, ForkServer
from mismatch_lab.schema import SideSpec
from mismatch_lab.schema.events import Captured, Event

PATIENCE_S = 60.0
ROOT = Path(mismatch_lab.__file__).parents[1]
FAKE = SideSpec(side="ref", engine="fake", model="fake", dtype="float32")

FACTS = """
import json, os, random, signal, sys, threading
import torch

def patch(model):
    facts = {
        "environment": dict(os.environ), "folder": os.getcwd(), "path": sys.path,
        "arguments": len(sys.argv), "threads": torch.get_num_threads(),
        "leads_session": os.getsid(0) == os.getpid(), "parallel": torch.__config__.parallel_info(),
        "signals": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)],
        "open": sorted(fd for fd in os.listdir("/proc/self/fd") if int(fd) < 3),
    }
    with open("{out}", "w") as stream:
        json.dump(facts | {"parent": os.getppid(), "drawn": random.random()}, stream)
"""
SPOILT = """
import torch

def patch(model):
    real = torch.nn.functional.linear
    torch.nn.functional.linear = lambda *a, **k: 2 * real(*a, **k)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(7)
"""
ENDS = {
    "killed": "import os, signal\ndef patch(model): os.kill(os.getpid(), signal.SIGKILL)\n",
    "raises": "def patch(model): raise KeyError('lost')\n",
    "leaves": "import sys\ndef patch(model): sys.exit(7)\n",
    "stays": "import os, subprocess, sys\ndef patch(model):\n"
    "    subprocess.Popen(['sleep', '600'])\n    os._exit(9)\n",
}
PARENT = """
import sys, time
from pathlib import Path
from mismatch_lab.engines.jobs import ScoreJob
from mismatch_lab.executors import forked
from mismatch_lab.executors.session import Session
from mismatch_lab.schema import SideSpec

forked.ENGINES, forked.PRELOAD = ("fake",), ()
spec = SideSpec(side="ref", engine="fake", model="fake", dtype="float32")
with forked.forked_workers(), Session(spec, Path(sys.argv[1]), "lab", Path(sys.argv[2])) as session:
    session.score(ScoreJob(id="a", source="decode"))
    print(forked._opened[0][0].process.pid, session._process.handle.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _no_other_server() -> Iterator[None]:
    """One of this process's e2e tests is neither used nor killed."""
    others, forked._opened = forked._opened, []
    yield
    forked._opened = others


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers of the fake engine are forked."""
    monkeypatch.setattr(forked, "ENGINES", ("fake",))
    monkeypatch.setattr(forked, "PRELOAD", ())
    with forked.forked_workers():
        yield


def run(captures: Path, out: Path, spec: SideSpec, plugin: str | None = None) -> Capture:
    """Score the two rows in a process of its own."""
    out.mkdir(exist_ok=True)
    if plugin is not None:
        (out / "patch.py").write_text(plugin)
        spec = spec.model_copy(update={"plugin": f"{out / 'patch.py'}:patch"})
    job = ScoreJob(id="scored", source=str(captures / "decode"))
    task = WorkerTask(captures_dir=str(out), stages=[Stage(spec=spec, jobs=[job])])
    events: list[Event] = []
    local.run_task(task, "side", out, events.append)
    assert [event.id for event in events if isinstance(event, Captured)] == ["scored"]
    return load_capture(out / "scored")[0]


def is_gone(pid: int) -> bool:
    status = Path("/proc") / str(pid) / "status"
    return not status.exists() or "State:\tZ" in status.read_text()


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def server() -> ForkServer:
    found = forked._opened[0]
    assert found is not None
    return found[0]


@pytest.mark.slow
def test_with_torch_a_forked_worker_is_as_a_fresh_one_and_alone(
    captures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf = SideSpec(side="train", engine="hf", model="mini-gpt-oss", dtype="float32")
    fsdp = hf.model_copy(update={"engine": "fsdp", "dtype": "bfloat16"})
    facts, scored = {}, {}
    with forked.forked_workers():
        for how in ("forked", "fresh"):
            if how == "fresh":
                monkeypatch.setattr(forked, "ENGINES", ())
            plugin = FACTS.replace("{out}", str(tmp_path / f"{how}.json"))
            scored[how] = run(captures, tmp_path / how, fsdp, plugin)
            facts[how] = json.loads((tmp_path / f"{how}.json").read_text())
        monkeypatch.undo()
        before = run(captures, tmp_path / "before", hf)
        spoilt = run(captures, tmp_path / "spoilt", hf, SPOILT)
        after = run(captures, tmp_path / "after", hf)
        parents = [facts[how].pop("parent") for how in ("forked", "fresh")]
        assert parents == [server().process.pid, os.getpid()]
        assert server().works
    drawn = [facts[how].pop("drawn") for how in ("forked", "fresh")]
    assert drawn[0] != drawn[1]
    assert facts["forked"] == facts["fresh"]
    np.testing.assert_array_equal(scored["forked"].logp, scored["fresh"].logp)  # to the bit
    assert np.nanmax(np.abs(spoilt.logp - before.logp)) > 0.01
    np.testing.assert_array_equal(after.logp, before.logp)


@pytest.mark.parametrize(
    ("way", "kind", "said"),
    [
        ("killed", EngineError, "The side process was killed, most likely for memory."),
        ("raises", InputError, "raised KeyError: 'lost'"),
        ("leaves", EngineError, "The side process ended with code 7"),
        ("stays", EngineError, "The side process ended with code 9"),
    ],
)
def test_an_end_is_reported_as_that_of_a_fresh_worker(
    captures: Path,
    tmp_path: Path,
    light: None,
    way: str,
    kind: type[Exception],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reports = []
    for engines in (("fake",), ()):
        monkeypatch.setattr(forked, "ENGINES", engines)
        with pytest.raises(kind) as raised:
            run(captures, tmp_path, FAKE, ENDS[way])
        reports.append((type(raised.value), str(raised.value), vars(raised.value)))
    assert said in reports[0][1]
    assert reports[0] == reports[1]
    assert str(tmp_path / "side.log") in reports[0][2]["hint"]


def test_a_session_in_a_forked_worker(captures: Path, tmp_path: Path, light: None) -> None:
    with Session(FAKE, captures, "lab", tmp_path) as session:
        assert session.score(ScoreJob(id="a", source="decode")).rows.n_rows == 2
        assert session._process is not None
        process = session._process.handle
        assert isinstance(process, Forked)
        assert not is_gone(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        for name in ("b", "c"):
            with pytest.raises(EngineError, match="lab process was killed"):
                session.score(ScoreJob(id=name, source="decode"))
    with Session(FAKE, captures, "lab", tmp_path) as session:
        session.score(ScoreJob(id="a", source="decode"))
        assert session._process is not None
        pid = session._process.handle.pid
    assert is_gone(pid)


def test_children_of_a_worker_end_with_it(captures: Path, tmp_path: Path, light: None) -> None:
    mark = tmp_path / "mark"
    plugin = ENDS["stays"].replace("['sleep', '600']", f"['tail', '-f', '{mark}']")
    mark.touch()
    with pytest.raises(EngineError, match="code 9"):
        run(captures, tmp_path, FAKE, plugin)
    reaped = Path(f"/proc/{server().process.pid}/task/{server().process.pid}/children")
    wait_for(lambda: reaped.read_text() == "")
    folders = [path for path in Path("/proc").glob("[0-9]*") if _names(path, str(mark))]
    wait_for(lambda: all(is_gone(int(folder.name)) for folder in folders))


def _names(folder: Path, text: str) -> bool:
    try:
        return text.encode() in (folder / "cmdline").read_bytes()
    except OSError:
        return False


def test_where_a_fresh_worker_would_be_another_none_is_forked(
    captures: Path, tmp_path: Path, light: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parent(folder: str, spec: SideSpec = FAKE) -> int:
        plugin = "import os\ndef patch(model): open('{}', 'w').write(str(os.getppid()))\n"
        run(captures, tmp_path / folder, spec, plugin.replace("{}", str(tmp_path / "parent")))
        return int((tmp_path / "parent").read_text())

    assert parent("same") == server().process.pid
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "the next one")
    assert parent("next test") == server().process.pid
    assert parent("python", FAKE.model_copy(update={"python": sys.executable})) == os.getpid()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # read when libraries are loaded
    assert parent("environment") == os.getpid()
    monkeypatch.undo()


def test_without_its_server_a_worker_is_a_fresh_one(
    captures: Path, tmp_path: Path, light: None
) -> None:
    run(captures, tmp_path / "a", FAKE)
    os.kill(server().process.pid, signal.SIGKILL)
    server().process.wait(PATIENCE_S)
    assert run(captures, tmp_path / "b", FAKE).rows.n_rows == 2
    assert not server().works


def test_a_server_that_cannot_import_is_not_asked(
    captures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forked, "ENGINES", ("fake",))
    monkeypatch.setattr(forked, "PRELOAD", ("no_such_module",))
    with forked.forked_workers():
        assert run(captures, tmp_path, FAKE).rows.n_rows == 2
        assert not server().works


def test_the_server_is_there_as_long_as_the_outermost_wants_it(light: None) -> None:
    with forked.forked_workers(at_once=True):
        pid = server().process.pid
    assert not is_gone(pid)
    assert forked.start_s() > 0


def test_the_server_ends_with_a_parent_that_is_killed(captures: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(captures), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert not any(is_gone(pid) for pid in pids)
        parent.kill()
    wait_for(lambda: all(is_gone(pid) for pid in pids))
