"""Each run is a process of its own: `mismatch-lab train …`, so that one that dies takes no other.

A process holds its folder's lock as long as it lives, also after the comparison was killed; so a
comparison that goes on never has two processes in one folder. It is no `processes.process.Process`:
it is the command itself, asked nothing, whose lines are shown and which tidies up when terminated.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from typing import IO

from mismatch_lab.errors import InputError
from mismatch_lab.processes.process import PATIENT
from mismatch_lab.trainer.comparison.runs import LOG, Run, arguments
from mismatch_lab.trainer.run import RECORD

LOCK = "lock"
LOCK_WAIT_S = 120.0
"""An orphan of a killed comparison ends when it next prints a step, since nobody reads it."""
END_WAIT_S = 30.0

OnLine = Callable[[Run, str], None]
Process = subprocess.Popen[str]


def launch(runs: list[Run], workers: int, on_line: OnLine) -> None:
    """Make these runs, `workers` at once; one that fails leaves the others alone.

    Interrupted, it ends the processes it started.

    Raises:
        InputError: another process is at work in a folder.
    """
    live: set[Process] = set()
    stopped = threading.Event()
    pool = ThreadPoolExecutor(workers)
    # Alone, a run is a quarter faster where its waiting threads spin; of two, each takes up to
    # eight times as long.
    environment = dict(os.environ) if workers == 1 else PATIENT | os.environ
    futures = [pool.submit(_run, run, environment, live, stopped, on_line) for run in runs]
    try:
        for future in as_completed(futures):
            future.result()
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
        for process in tuple(live):
            process.terminate()
        pool.shutdown(wait=True)


def program(run: Run) -> list[str]:
    """The command of a run, or the one that goes on with it."""
    begun = ["--resume"] if (run.folder / RECORD).is_file() else []
    return [sys.executable, "-m", "mismatch_lab.cli", *arguments(run.config, run.folder), *begun]


def _run(
    run: Run,
    environment: Mapping[str, str],
    live: set[Process],
    stopped: threading.Event,
    on_line: OnLine,
) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    with _locked(run, stopped) as lock, (run.folder / LOG).open("a", encoding="utf-8") as log:
        if stopped.is_set():
            return
        process = subprocess.Popen(
            program(run),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            pass_fds=(lock.fileno(),),
            env=environment,
        )
        live.add(process)
        try:
            if not stopped.is_set():  # else it may have been added after the others were ended
                _follow(process, log, lambda line: on_line(run, line))
        finally:
            live.discard(process)
            _end(process)


def _follow(process: Process, log: IO[str], on_line: Callable[[str], None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        log.write(line)
        log.flush()
        on_line(line.rstrip("\n"))
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_WAIT_S)


def _end(process: Process) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextmanager
def _locked(run: Run, stopped: threading.Event) -> Iterator[IO[str]]:
    with (run.folder / LOCK).open("w", encoding="utf-8") as lock:
        until = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise InputError(
                        f"Another process is at work in {run.folder}.", "Wait for it, or end it."
                    ) from None
            if stopped.wait(0.5):
                break
        yield lock
