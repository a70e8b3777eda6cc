"""Several cases at a time, each in a process of its own that is forked from this one.

Processes, not threads: much of a diagnosis is Python of its own, and matplotlib is not made for
threads. One for each case: what kills one costs that case, and nothing is left of it for the next.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from types import FrameType
from typing import Any

from mismatch_lab.diagnose import OnEvent
from mismatch_lab.scorecard.cases import Planned
from mismatch_lab.scorecard.records import CaseResult

Run = Callable[[Planned, OnEvent], CaseResult]
Told = Callable[[Planned, dict[str, Any]], None]
Done = Callable[[CaseResult], None]


@dataclass
class Hand:
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
    hands: dict[Connection, Hand] = {}
    try:
        while waiting or hands:
            while waiting and len(hands) < count:
                said, hand = _start(waiting.popleft(), run)
                hands[said] = hand
            for ready in wait(list(hands)):
                assert isinstance(ready, Connection)
                hand = hands[ready]
                try:
                    message = ready.recv()
                except EOFError:
                    del hands[ready]
                    ready.close()
                    hand.process.join()
                    done(hand.result or _died(hand))
                    continue
                if isinstance(message, CaseResult):
                    hand.result = message
                else:
                    on_event(hand.entry, message)
    finally:
        for hand in hands.values():
            hand.process.terminate()
        for hand in hands.values():
            hand.process.join()


def _start(entry: Planned, run: Run) -> tuple[Connection, Hand]:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_work, args=(entry, run, theirs))
    process.start()
    theirs.close()
    return ours, Hand(entry, process)


def _work(entry: Planned, run: Run, say: Connection) -> None:
    # Ctrl-C reaches every process of the terminal; the first one decides, and asks the others.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] in ("case", "stage"):
            say.send(event)

    with suppress(KeyboardInterrupt):
        say.send(run(entry, on_event))


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(3)


def _died(hand: Hand) -> CaseResult:
    problem = f"The process of this case ended with code {hand.process.exitcode}."
    return CaseResult(case=hand.entry.case, judgement=None, problem=problem)
