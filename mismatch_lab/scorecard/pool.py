"""Several cases at a time, each in a process of its own that is forked from this one.

Processes, not threads: much of a diagnosis is Python of its own, and matplotlib is not made for
threads. One for each case: what kills one costs that case, and nothing is left of it for the next.
They are forks, and no `processes.process.Process`: what plants a case is a closure of this program.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from types import FrameType

from mismatch_lab.processes.child import end_with
from mismatch_lab.schema.events import Event, OnEvent, StageBegan
from mismatch_lab.scorecard.cases import Planned
from mismatch_lab.scorecard.records import CaseResult

Run = Callable[[Planned, OnEvent], CaseResult]
Told = Callable[[Planned, Event], None]
Done = Callable[[CaseResult], None]


@dataclass
class Running:
    """A process with its case."""

    entry: Planned
    process: ForkProcess
    result: CaseResult | None = None


def run_side_by_side(
    entries: Sequence[Planned], count: int, run: Run, on_event: Told, done: Done
) -> None:
    """Run every case, `count` at a time; results are handed over as they come.

    This process must have no other thread: it forks. Whatever ends this call ends its processes.
    """
    waiting = deque(entries)
    running: dict[Connection, Running] = {}
    try:
        while waiting or running:
            while waiting and len(running) < count:
                said, one = _start(waiting.popleft(), run)
                running[said] = one
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                one = running[ready]
                try:
                    message = ready.recv()
                except EOFError:
                    del running[ready]
                    ready.close()
                    one.process.join()
                    done(one.result or _died(one))
                    continue
                if isinstance(message, CaseResult):
                    one.result = message
                else:
                    on_event(one.entry, message)
    finally:
        for one in running.values():
            one.process.terminate()
        for one in running.values():
            one.process.join()


def _start(entry: Planned, run: Run) -> tuple[Connection, Running]:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_work, args=(entry, run, theirs))
    process.start()
    theirs.close()
    return ours, Running(entry, process)


def _work(entry: Planned, run: Run, say: Connection) -> None:
    os.setsid()  # Ctrl-C is for the first process alone: it decides, and asks the others
    signal.signal(signal.SIGTERM, _interrupt)
    parent = multiprocessing.parent_process()
    assert parent is not None
    end_with(parent.sentinel)

    def on_event(event: Event) -> None:
        if isinstance(event, StageBegan):
            say.send(event)

    with suppress(KeyboardInterrupt):
        say.send(run(entry, on_event))


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _died(one: Running) -> CaseResult:
    problem = f"The process of this case ended with code {one.process.exitcode}."
    return CaseResult(case=one.entry.case, judgement=None, problem=problem)
