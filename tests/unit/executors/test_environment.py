"""What processes get of the environment, and when."""

import subprocess
import sys

import pytest

from mismatch_lab.executors.environment import PATIENT, wait_passively, worker_environment

POLICY = "OMP_WAIT_POLICY"


def test_threads_wait_passively_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(POLICY, raising=False)
    assert worker_environment()[POLICY] == PATIENT[POLICY] == "PASSIVE"
    monkeypatch.setenv(POLICY, "ACTIVE")
    wait_passively()
    assert worker_environment()[POLICY] == "ACTIVE"


def test_the_trainer_says_so_before_torch_is_there() -> None:
    # OpenMP reads it once, when torch loads it: later it would be said to no effect.
    code = f"""
import os, sys
from mismatch_lab.trainer import run
os.environ.pop({POLICY!r}, None)
def check(config):
    assert "torch" not in sys.modules
    print(os.environ[{POLICY!r}])
    raise SystemExit
run.check = check
run.run_training(None, None, False, ())
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "PASSIVE\n"
