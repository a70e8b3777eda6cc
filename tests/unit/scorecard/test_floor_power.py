"""The study of the noise floor on a recording made by hand, with nothing run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mismatch_lab.captures.capture import Capture, Rows
from mismatch_lab.scorecard.floor_page import FACTORS, whole_recordings, write_page
from mismatch_lab.scorecard.floor_power import HEALTHY, NOISE_NATS, trials
from mismatch_lab.scorecard.floor_recordings import SCALES, Recording, scaled_logp


def made() -> Recording:
    """Six rows of 50 tokens; the floor is 0.01 nats, and so is every side's error but the planted:
    0.05 at each scale.
    """
    ref = np.full(300, -1.0)
    logp = {
        "ref": ref, "floor": ref + 0.01, "prefill": ref - 0.01, "decode": ref - 0.01,
        "train": ref + 0.01,
    }  # fmt: skip
    scaled = np.tile(ref + 0.05, (len(SCALES), 1))
    rows = np.repeat(np.arange(6), 50)
    return Recording("hf", "made", "bfloat16", rows, logp, {"prefill": scaled, "train": scaled})


def test_each_error_is_measured_on_all_rows_and_on_four() -> None:
    found = list(trials(made()))
    whole = whole_recordings(found)
    assert len(whole) == len(HEALTHY) + len(SCALES) + len(NOISE_NATS)
    assert {trial.n_rows for trial in found} == {4, 6}
    for trial in whole:
        if trial.planted in HEALTHY:
            assert (trial.mean, trial.typical) == pytest.approx((1.0, 1.0))
        if trial.planted.startswith("logits"):
            assert (trial.mean, trial.mean_low) == pytest.approx((5.0, 5.0))
            assert trial.typical == pytest.approx(0.050003 / 0.010003)
    assert all(trial.counts for trial in whole)


def test_the_page_says_how_many_leave_the_floor(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_page(list(trials(made())), tmp_path)
    text = (tmp_path / "floor-power.md").read_text()
    nought, all_of = (" | ".join([rate] * len(FACTORS)) for rate in ("0%", "100%"))
    assert f"| bfloat16, trainer | 1 | {nought} |" in text
    assert f"| bfloat16, logits x 1.05 | 1 | {all_of} |" in text
    assert json.loads((tmp_path / "floor-power.json").read_text())["resolution_nats"] == 3e-6
    assert (tmp_path / "floor-power.svg").stat().st_size > 1000


def test_scaled_logits_are_a_softmax_taken_again() -> None:
    # Probabilities 1/2, 1/4, 1/4; doubled logits: 1/4, 1/16, 1/16, of which the first is 2/3.
    rows = Rows.build([[1, 0]], [1], [[False, True]])
    logp = np.array([np.nan, np.log(0.5)], np.float32)
    full = np.log(np.array([[0.5, 0.25, 0.25]], np.float32))
    capture = Capture(rows, logp, probe_positions=np.array([1]), probe_logp=full)
    assert scaled_logp(capture, 2.0) == pytest.approx([np.log(2 / 3)])
