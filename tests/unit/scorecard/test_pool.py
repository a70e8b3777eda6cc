"""Cases side by side, with stand-ins for the diagnosis."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from mismatch_lab.schema.events import Event, OnEvent, StageBegan
from mismatch_lab.scorecard.cases import Planned
from mismatch_lab.scorecard.pool import run_side_by_side
from mismatch_lab.scorecard.records import Case, CaseResult
from mismatch_lab.scorecard.setup import Setup

PATIENCE_S = 30.0


def planned(name: str) -> Planned:
    case = Case(id=name, kind="control", model="m", dtype="float32", engine="hf", control=name)
    return Planned(case, lambda _model: Setup())


def result(entry: Planned, headline: str = "") -> CaseResult:
    return CaseResult(case=entry.case, judgement=None, headline=headline)


def wait_for_file(path: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.005)


def nothing(_entry: Planned, _event: Event) -> None: ...


def test_so_many_at_a_time_each_in_a_process_of_its_own(tmp_path: Path) -> None:
    def run(entry: Planned, on_event: OnEvent) -> CaseResult:
        on_event(StageBegan(f"in {entry.case.id}"))
        (tmp_path / entry.case.id).touch()
        if entry.case.id in "ab":  # each needs the other to be under way
            wait_for_file(tmp_path / {"a": "b", "b": "a"}[entry.case.id])
        else:  # and c begins when one of them has ended
            assert results
        return result(entry, str(os.getpid()))

    results: list[CaseResult] = []
    events: list[tuple[str, Any]] = []
    run_side_by_side(
        [planned(name) for name in "abc"],
        2,
        run,
        lambda entry, event: events.append((entry.case.id, event.text)),
        results.append,
    )
    assert sorted(r.case.id for r in results) == ["a", "b", "c"]
    assert results[-1].case.id == "c"
    assert len({r.headline for r in results} | {str(os.getpid())}) == 4
    assert sorted(events) == [(name, f"in {name}") for name in "abc"]


def test_a_case_that_is_killed_costs_itself_alone() -> None:
    def run(entry: Planned, _on_event: OnEvent) -> CaseResult:
        if entry.case.id == "a":
            os.kill(os.getpid(), signal.SIGKILL)
        return result(entry, "done")

    results: list[CaseResult] = []
    run_side_by_side([planned("a"), planned("b")], 1, run, nothing, results.append)
    killed, other = results
    assert (killed.case.id, killed.judgement) == ("a", None)
    assert killed.problem == "The process of this case ended with code -9."
    assert other.headline == "done"


def test_whatever_ends_the_card_ends_its_cases_and_lets_them_tidy_up(tmp_path: Path) -> None:
    def run(entry: Planned, _on_event: OnEvent) -> CaseResult:
        if entry.case.id == "a":
            wait_for_file(tmp_path / "b")
            return result(entry)
        try:
            (tmp_path / "b").write_text(str(os.getpid()))
            time.sleep(600)
        finally:
            (tmp_path / "tidy").touch()
        raise AssertionError

    def done(_result: CaseResult) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_side_by_side([planned("a"), planned("b"), planned("c")], 2, run, nothing, done)
    assert (tmp_path / "tidy").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "b").read_text()), 0)
