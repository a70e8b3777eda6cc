"""Several runs of the fake engine, each in processes of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mismatch_lab.captures.store import load_capture, save_capture
from mismatch_lab.errors import EngineError
from mismatch_lab.report import page
from mismatch_lab.run.diagnose import diagnose
from mismatch_lab.run.request import DiagnoseRequest, build_run
from mismatch_lab.schema import Findings

EDGE = "decode_train"
AfterTask = Callable[[str, Path], None]


def run(probe: Path, out: Path, repeats: int, after_task: AfterTask | None = None) -> Findings:
    asked = DiagnoseRequest(
        model="fake", probe=str(probe), engine="fake", trainer="fake", dtype="float32",
        repeats=repeats,
    )  # fmt: skip
    return diagnose(build_run(asked), out, False, lambda event: None, after_task=after_task)


def test_three_runs_give_an_interval_over_runs(probe: Path, tmp_path: Path) -> None:
    found = run(probe, tmp_path / "run", 3)
    assert found.verdict.status == "match"
    over = found.over_runs
    assert over is not None
    assert [one.run for one in over.runs] == [1, 2, 3]
    assert len({one.seed for one in over.runs}) == 3
    values = [one.edges[EDGE]["abs_delta_mean"] for one in over.runs]
    assert len(set(values)) == 3  # other tokens were sampled
    size = over.edges[EDGE]["abs_delta_mean"]
    # t(2) = 4.302653.
    half = 4.302653 * np.std(values, ddof=1) / math.sqrt(3)
    assert size.value == pytest.approx(np.mean(values))
    assert size.ci95[1] == pytest.approx(np.mean(values) + half, rel=1e-5)
    assert values[0] == found.edges[EDGE]["abs_delta_mean"].value
    assert (tmp_path / "run" / "repeats" / "3" / "captures" / "train").is_dir()
    assert 'id="over-runs"' in (tmp_path / "run" / "report.html").read_text()


def test_one_run_is_as_ever(probe: Path, tmp_path: Path) -> None:
    found = run(probe, tmp_path / "run", 1)
    assert found.over_runs is None
    assert not (tmp_path / "run" / "repeats").exists()


def test_a_run_that_fails_loses_nothing(
    probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "write_report", lambda folder: folder)

    def after_task(name: str, captures: Path) -> None:
        if captures.parent.name == "3" and name == "trainer":
            raise EngineError("the trainer ran out of memory")

    found = run(probe, tmp_path / "run", 4, after_task)
    assert found.over_runs is not None
    assert [one.status for one in found.over_runs.runs] == ["match", "match", "error", "match"]
    assert found.over_runs.failed[0].headline == "the trainer ran out of memory"
    assert found.over_runs.edges[EDGE]["abs_delta_mean"].n == 3
    assert found.verdict.status == "match"
    assert any("Run 3 failed" in reason for reason in found.verdict.reasons)
    assert (tmp_path / "run" / "findings.json").is_file()


def test_a_token_that_one_later_run_lacks_is_a_finding(
    probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "write_report", lambda folder: folder)

    def after_task(name: str, captures: Path) -> None:
        if captures.parent.name == "2" and name == "trainer":
            capture, manifest = load_capture(captures / "train")
            capture.logp[np.flatnonzero(capture.rows.sampled)[5]] = -np.inf
            (captures / "train").rename(captures.parent / "train-before")
            save_capture(captures / "train", capture, manifest)

    found = run(probe, tmp_path / "run", 2, after_task)
    assert found.verdict.status == "mismatch"
    (odd,) = found.odd_tokens
    assert (odd.run, odd.kind, odd.side, odd.n) == (2, "impossible", "train", 1)
    assert ("impossible-token", "train") in [(c.id, c.side) for c in found.verdict.causes]
