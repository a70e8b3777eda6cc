"""When things go wrong: what goes to which stream, and with which exit code."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from calls import Call, Outcome, refused

import mismatch_lab
from mismatch_lab.cli import commands
from mismatch_lab.engines.failures import runtime_error
from mismatch_lab.processes.messages import Failed
from mismatch_lab.schema import SideSpec

SIDE = SideSpec(side="infer", engine="fake", model="fake", dtype="float32")


def test_debug_shows_where(lab: Call) -> None:
    found = lab("compare", "a", "b", "--debug")
    assert (found.code, found.out) == (2, "")  # 1 is for a gate that failed
    assert "Traceback" in found.err
    assert "load_manifest" in found.err
    assert "a is not a capture" in found.err


def test_a_defect_of_ours_is_said_to_be_one(lab: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("that should not happen")

    monkeypatch.setattr(commands, "run_compare", broken)
    found = lab("compare", "a", "b")
    assert (found.code, found.out) == (2, "")
    assert "RuntimeError: that should not happen" in found.err
    assert "--debug" in found.err
    assert "Traceback" not in found.err
    assert "Traceback" in lab("compare", "a", "b", "--debug").err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/run.json"), "The disk is full"),
        (RuntimeError("SafetensorError: I/O error: No space left on device"), "The disk is full"),
        (ModuleNotFoundError("No module named 'torch_x.y'", name="torch_x.y"), "torch_x is needed"),
    ],
)
def test_what_the_machine_lacks_is_no_defect_of_ours(
    lab: Call, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(commands, "run_compare", fails)
    refused(lab("compare", "a", "b"), said)


def test_a_full_disk_of_an_engine_names_no_log_on_it() -> None:
    error = RuntimeError(
        "Error while serializing: I/O error: No space left on device (os error 28)"
    )
    told = runtime_error(error, SIDE, "making capture decode")
    assert "disk is full" in told.problem
    assert "Log" not in Failed.of(told).error(Path("full/logs/engine.log")).hint


def test_an_interruption_is_130_and_says_so(lab: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "run_compare", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    found = lab("compare", "a", "b")
    assert (found.code, found.out) == (130, "")
    assert "interrupted" in found.err


def test_as_a_program_of_its_own(tmp_path: Path) -> None:
    root = Path(mismatch_lab.__file__).parents[1]
    ended = subprocess.run(
        [sys.executable, "-m", "mismatch_lab.cli", "compare", "a", "b"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    refused(Outcome(ended.returncode, ended.stdout, ended.stderr), "a is not a capture")
