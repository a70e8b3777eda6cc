"""A scoring job that puts packed rows together again asks for them and keeps only what is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mismatch_lab.captures.arrays import capture_from_arrays, manifest_of
from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.captures.store import save_capture
from mismatch_lab.engines.base import ScoreRequest
from mismatch_lab.engines.jobs import ScoreJob
from mismatch_lab.engines.recording import score_job
from mismatch_lab.errors import CaptureError
from mismatch_lab.schema import Sampling, SideSpec

IDS, MASK = [[5, 6], [5, 7], [5, 8], [5, 9]], [[0, 1]] * 4
TRAIN = SideSpec(side="train", engine="recorded", model="m", dtype="float32")


class Asked:
    """An engine that says -1 of every token, and of token 6 a quarter of a vocabulary of two."""

    def score(self, rows: Rows, request: ScoreRequest, progress: Any) -> Capture:
        self.request = request
        logp = np.where(rows.sampled, -1.0, np.nan).astype(np.float32)
        probes = np.log(np.array([[0.25, 0.75]] * 4, np.float32))
        return Capture(rows, logp, np.array([1, 3, 5, 7]), probes)


@pytest.fixture
def captures(tmp_path: Path) -> Path:
    """Sequences 3 and 0 of one packed row, 1 alone in another, 2 nobody knows where."""
    packed = capture_from_arrays(IDS, np.full((4, 2), -2.0), MASK, None, None, None, None,
                                 [8, 9, -1, 8], [1, 0, 0, 0])  # fmt: skip
    for name, capture in {"decode": replace(packed, packs=None), "train": packed}.items():
        save_capture(tmp_path / name, capture, manifest_of(name, TRAIN, capture, Sampling()))
    return tmp_path


def test_what_lay_nobody_knows_where_has_no_log_prob(captures: Path) -> None:
    engine: Any = Asked()
    job = ScoreJob(id="altered", source="decode", packing="leaky", packs_from="train")
    found = score_job(engine, job, captures, lambda done, total: None)
    assert engine.request.packs == ((3, 0), (1,))
    assert np.isnan(found.logp).tolist() == [True, False, True, False, True, True, True, False]
    assert found.probe_logp is not None
    assert np.isnan(found.probe_logp).all(axis=1).tolist() == [False, False, True, False]


def test_a_capture_that_does_not_say_how_rows_lay_is_refused(captures: Path) -> None:
    job = ScoreJob(id="altered", source="decode", packing="leaky", packs_from="decode")
    with pytest.raises(CaptureError, match="does not say how rows were packed"):
        score_job(Asked(), job, captures, lambda done, total: None)  # type: ignore[arg-type]
