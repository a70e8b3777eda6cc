"""A real process that is asked, prints, is late, fails and dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

import mismatch_lab
from mismatch_lab.errors import EngineError, InputError, NotApplicableError
from mismatch_lab.processes.messages import Messages
from mismatch_lab.processes.process import Process, environment_of_workers, start

PATIENCE_S = 60.0
ASKED = Messages(str, float, int)
TALKER = """
import os, subprocess, sys, time
from mismatch_lab.errors import EngineError, InputError, NotApplicableError
from mismatch_lab.processes.child import parent_channel, serve, told
from mismatch_lab.processes.messages import Messages

channel = parent_channel(Messages(str, float, int))

def answer(request):
    match request:
        case float():
            time.sleep(request)
        case "print":
            print('["str","printed"]', flush=True)
            subprocess.run(["echo", "of a child"])
        case "read":
            return f"read {sys.stdin.read()!r}"
        case "tell":
            channel.send(3)
        case "child":
            return subprocess.Popen(["sleep", "600"]).pid
        case "refuse":
            raise NotApplicableError("no such part")
        case "fail":
            raise InputError("wrong", "right it")
        case "break":
            raise KeyError("x")
        case "leave":
            os._exit(7)
    return str(request)[:10]

sys.exit(told(channel, lambda: serve(channel, answer), lambda e: EngineError(f"of ours: {e!r}")))
"""


@dataclass
class Talk:
    process: Process
    log: Path


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Talk]:
    (tmp_path / "talker.py").write_text(TALKER)
    path = f"{Path(mismatch_lab.__file__).parents[1]}:{tmp_path}"
    environment = environment_of_workers() | {"PYTHONPATH": path}
    log = tmp_path / "logs" / "talker.log"
    with closing(start("side", "talker", [], log, ASKED, environment)) as process:
        yield Talk(process, log)


def is_gone(pid: int) -> bool:
    status = Path("/proc") / str(pid) / "status"
    return not status.exists() or "State:\tZ" in status.read_text()


def test_what_is_printed_is_in_the_log_and_no_answer(talk: Talk) -> None:
    assert talk.process.ask("print", str) == "print"
    assert talk.log.read_text() == '["str","printed"]\nof a child\n'
    assert talk.process.ask("read", str) == "read ''"  # the channel is nobody else's to read
    assert talk.process.ask("tell", str) == "tell"  # what it tells before is passed over
    assert talk.process.ask("x" * (1 << 22), str) == "x" * 10


def test_an_answer_that_is_late_is_an_error(talk: Talk) -> None:
    assert talk.process.ask("warm", str, within_s=PATIENCE_S) == "warm"
    began = time.monotonic()
    with pytest.raises(EngineError, match="side process did not answer in time") as raised:
        talk.process.ask(600.0, str, within_s=0.05)
    assert 0.05 <= time.monotonic() - began < PATIENCE_S
    assert raised.value.hint == f"Log: {talk.log}"


def test_errors_are_what_they_were(talk: Talk) -> None:
    with pytest.raises(NotApplicableError, match="no such part"):
        talk.process.ask("refuse", str)
    with pytest.raises(InputError) as raised:  # which the one before did not end
        talk.process.ask("fail", str)
    assert str(raised.value) == f"wrong\nright it\nLog: {talk.log}"
    assert "Traceback" in talk.log.read_text()
    with pytest.raises(EngineError, match="ended with code 2"):
        talk.process.ask("more", str)


def test_an_error_of_a_library_is_put_into_words(talk: Talk) -> None:
    with pytest.raises(EngineError, match=r"of ours: KeyError\('x'\)"):
        talk.process.ask("break", str)


def test_a_death_is_told_by_its_code_or_signal(talk: Talk) -> None:
    with pytest.raises(EngineError, match="The side process ended with code 7"):
        talk.process.ask("leave", str)


def test_nothing_of_a_session_is_left(talk: Talk) -> None:
    child = talk.process.ask("child", int)
    assert not is_gone(child)
    os.kill(talk.process.handle.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="side process was killed"):
        talk.process.ask("more", str)
    talk.process.close()
    until = time.monotonic() + PATIENCE_S
    while not is_gone(child):
        assert time.monotonic() < until
        time.sleep(0.01)
    talk.process.close()
