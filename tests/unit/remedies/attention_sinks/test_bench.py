"""The measurement that GPUs are for, at tiny shapes on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mismatch_lab.remedies.attention_sinks.bench import speed, ways
from mismatch_lab.remedies.attention_sinks.bench.__main__ import measure
from mismatch_lab.remedies.attention_sinks.bench.accuracy import Accuracy


def test_a_dry_run_measures_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(speed, "SECONDS_PER_GROUP", 0.0)
    monkeypatch.setattr(ways, "eager", broken)
    accuracy, times = measure(tmp_path, dry_run=True)
    # One document and several, with a window and without; the kernel alone is caught each time.
    assert [row.right for row in accuracy if row.way == "sinks"] == [True] * 4
    assert [row.right for row in accuracy if row.way == "kernel without sinks"] == [True] * 4
    # A way that fails is a row that says so, and the others are measured.
    failed = [row.note for row in (*accuracy, *times) if row.way == "eager"]
    assert set(failed) == {"RuntimeError: no kernel image"}
    assert all(row.total_ms > 0 for row in times if row.way == "sinks")
    assert {row.relative for row in times if row.way == "kernel without sinks"} == {1.0}
    found = json.loads((tmp_path / "sinks.json").read_text(encoding="utf-8"))
    assert [len(found["accuracy"]), len(found["speed"])] == [len(accuracy), len(times)]
    assert "| sinks | 48 | 16 |" in (tmp_path / "sinks.md").read_text(encoding="utf-8")


def test_an_error_beyond_the_limit_is_wrong_and_no_error_is_not_right() -> None:
    assert Accuracy("sinks", True, [8], None, {"out": 0.009}).right
    assert not Accuracy("sinks", True, [8], None, {"out": 0.001, "dq": 0.011}).right
    assert not Accuracy("sinks", True, [8], None, {"out": 0.001, "dq": float("nan")}).right
    assert not Accuracy("sinks", True, [8], None, note="RuntimeError").right
