"""The command line as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import mismatch_lab

ROOT = Path(mismatch_lab.__file__).parents[1]
PATIENCE_S = 60.0
"""How long anything is waited for; two shared cores can be slow."""


def wait_for(what: Callable[[], bool], why: str) -> None:
    """Look every few milliseconds until it is so."""
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < until, f"waited for {why}"
        time.sleep(0.02)


@dataclass
class Lab:
    """Starts `mismatch-lab WORDS` and knows every process that came of it."""

    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(self, *words: object) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "MISMATCH_LAB_TEST": self.mark}
        return subprocess.Popen(
            [sys.executable, "-m", "mismatch_lab.cli", *map(str, words)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Started from a background job, it would inherit that interrupts are ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def call(self, *words: object) -> subprocess.CompletedProcess[str]:
        with self.start(*words) as process:
            out, err = process.communicate(timeout=PATIENCE_S)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def alive(self) -> list[int]:
        """Processes started by this lab or by what it started, however they are parented now."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue  # it ended, or is not ours to look at
        return found
