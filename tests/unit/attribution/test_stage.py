"""A side scored again for an experiment: a real process of the fake engine, and nothing left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import rows_of, run_of, side

from mismatch_lab.attribution.experiments.base import Trial
from mismatch_lab.attribution.stage import _rerun
from mismatch_lab.attribution.trials import SCORED
from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.store import save_capture
from mismatch_lab.errors import InputError
from mismatch_lab.executors.kept import EXPERIMENTS
from mismatch_lab.schema import Manifest, Prompt, Sampling

ROWS = rows_of(3, 2)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run's folder with what was sampled."""
    manifest = Manifest(
        id="decode", side="infer", engine="fake", engine_version="", model="fake",
        dtype="float32", sampling=None, logprob_space="processed", patched=[], host="",
        packages={}, rows=2, tokens=5, wall_s=0.0, arrays_sha256="",
    )  # fmt: skip
    capture = Capture(ROWS, np.full(5, -1.0, np.float32))
    save_capture(tmp_path / "captures" / "decode", capture, manifest)
    return tmp_path


def test_the_runs_tokens_are_scored_once(out: Path) -> None:
    seen: list[tuple[str, list[str]]] = []

    def after_task(task: str, folder: Path) -> None:
        seen.append((task, sorted(path.name for path in folder.iterdir())))

    rerun = _rerun(run_of(), out, lambda event: None, after_task)
    trial = Trial(side("train"))
    (capture,) = rerun(trial).values()
    np.testing.assert_array_equal(capture.rows.token_ids, ROWS.token_ids)
    assert np.isfinite(capture.logp[ROWS.sampled]).all()
    # Whoever spoils captures of the trainer's task spoils this one too.
    assert seen == [("trainer", [SCORED])]
    rerun(trial)
    assert len(seen) == 1  # what was run is kept, and not run again


def test_a_side_that_cannot_be_run_leaves_nothing(out: Path) -> None:
    rerun = _rerun(run_of(), out, lambda event: None, None)
    with pytest.raises(InputError, match="no defect 'love'"):
        rerun(Trial(side("train", args={"defect": "love"})))
    assert not list((out / EXPERIMENTS).rglob("manifest.json"))


def test_sampling_anew_gives_both_passes_of_the_engine(out: Path) -> None:
    seen: list[str] = []
    prompt = Prompt(id="sum", text="1 plus 2?")
    run = run_of().model_copy(update={"prompts": [prompt]})
    rerun = _rerun(run, out, lambda event: None, lambda task, folder: seen.append(task))
    captures = rerun(Trial(side("infer"), Sampling(temperature=0.5, max_tokens=4)))
    assert set(captures) == {"decode", "prefill"}
    sampled = captures["decode"].rows.sampled
    assert sampled.sum() > 0
    np.testing.assert_allclose(
        captures["decode"].logp[sampled], captures["prefill"].logp[sampled], atol=1e-5
    )
    assert seen == ["engine"]
