"""The scorecard's three answers of one case: the run, its captures, and these with a checkpoint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mismatch_lab.scorecard.store import load_results

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

CASE = "sinks-dropped.plain.mini-gpt-oss.fp32.hf"


def test_a_checkpoint_names_what_captures_alone_do_not(tmp_path: Path) -> None:
    out = tmp_path / "card"
    command = [sys.executable, "-m", "mismatch_lab.cli", "scorecard", "--subset", CASE]
    done = subprocess.run(
        [*command, "--engine", "hf", "--out", str(out)], check=True, capture_output=True, text=True
    )
    (result,) = load_results(out)
    assert result.judgement is not None
    assert result.judgement.cause
    assert result.black_box is not None
    assert result.black_box.judgement is not None
    assert (result.black_box.judgement.detected, result.black_box.judgement.cause) == (True, False)
    assert result.recorded is not None
    assert result.recorded.judgement is not None
    assert result.recorded.judgement.cause
    assert result.recorded.judgement.side
    assert result.recorded.judgement.location is None  # a record has no modules
    assert [cause.id for cause in result.recorded.causes] == ["attention-sinks-dropped"]
    assert "as diagnose --captures has them:" in done.stdout
