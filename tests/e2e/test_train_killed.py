"""A training with the real vLLM is killed: it resumes to the same numbers, no engine is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mismatch_lab.trainer.metrics import read_metrics

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

SETTINGS = {
    "eval_every": 0,
    "checkpoint_every": 1,
    "data.n_heldout": 4,
    "rollout.prompts": 2,
    "rollout.group": 4,
    "rollout.new_tokens": 32,
    "optim.lr": 1e-3,
}
STEPS = 3


def start(out: Path, *more: str) -> "subprocess.Popen[bytes]":
    words = ["train", "gsm8k", "--steps", str(STEPS), "--out", str(out), *more]
    for name, value in SETTINGS.items():
        words += ["--set", f"{name}={value}"]
    with out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "mismatch_lab.cli", *words],
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        )


def finish(out: Path, *more: str) -> None:
    code = start(out, *more).wait(timeout=200)
    assert code == 0, out.with_suffix(".log").read_text()[-3000:]


def wait_for(what: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Of a process, and theirs."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    own = [int(child) for file in files for child in file.read_text().split()]
    return own + [grandchild for child in own for grandchild in children(child)]


def measured(out: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in step.items() if not name.startswith("seconds/")}
        for step in read_metrics(out)
    ]


@pytest.mark.long
def test_a_killed_run_goes_on_to_the_same_metrics(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(whole)
    process = start(killed)
    wait_for((killed / "checkpoints" / "step-000001").is_dir, 120)
    engines = children(process.pid)
    assert engines
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in engines), 30)
    assert len(read_metrics(killed)) <= STEPS
    finish(killed, "--resume")
    assert len(measured(killed)) == STEPS + 1
    assert measured(killed) == measured(whole)
    assert all(step["sync/restarted"] == 0 for step in measured(whole)[:STEPS])
