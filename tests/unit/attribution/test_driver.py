"""From captures to causes with the fake engine, all in this process; nothing can be altered in it,
so that only changes to distributions and tokens are tried. In float32 what is planted is plain.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mismatch_lab.attribution import driver, stage
from mismatch_lab.attribution.experiments.base import Trial
from mismatch_lab.attribution.trials import SCORED
from mismatch_lab.captures.capture import Capture
from mismatch_lab.engines.fake import FakeEngine
from mismatch_lab.engines.fake_defects import TENSOR
from mismatch_lab.engines.jobs import ScoreJob
from mismatch_lab.engines.plan import plan_tasks
from mismatch_lab.engines.recording import score_job
from mismatch_lab.engines.worker import _run_stage
from mismatch_lab.errors import EngineError
from mismatch_lab.findings.build import build_findings, load_captures
from mismatch_lab.run.request import DiagnoseRequest, build_run
from mismatch_lab.schema import (
    Cause,
    DrawnFindings,
    Findings,
    RunSpec,
    SideSpec,
    SuppositionRecord,
)

PROBE = """
name = "sums"
title = "Short sums"
why = "Quick."
limits_reason = "Few tokens."
[prompts]
set = "{prompts}"
count = 10
[sampling]
max_tokens = 24
[limits]
min_tokens = 100
"""


class InProcess:
    """A session whose engine is here."""

    def __init__(self, spec: SideSpec, captures: Path) -> None:
        self.engine = FakeEngine(spec)
        self.captures = captures

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_error: object) -> None:
        """Nothing is held."""

    def score(self, job: ScoreJob) -> Capture:
        return score_job(self.engine, job, self.captures, lambda done, total: None)


class Made:
    """A run with its captures."""

    def __init__(self, run: RunSpec, out: Path) -> None:
        self.run = run
        self.out = out
        for _, task in plan_tasks(run, str(out / "captures")):
            for one in task.stages:
                _run_stage(one, out / "captures", lambda event: None)
        self.captures = load_captures(out)

    def attributed(
        self, budget_s: float | None = None, drawn: DrawnFindings | None = None
    ) -> Findings:
        """`drawn`: what the drawn tokens tell, which the fake engine does not record."""
        findings = build_findings(self.run, self.captures, {}).model_copy(update={"drawn": drawn})
        return stage.with_causes(
            self.run, self.out, self.captures, findings, lambda event: None, budget_s
        )

    def sound_train(self) -> Capture:
        """What the trainer would say without its defect."""
        expected = self.run.train.model_copy(update={"args": {}})
        folder = self.out / "captures"
        job = ScoreJob(id="again", source="decode")
        return score_job(FakeEngine(expected), job, folder, lambda done, total: None)


Make = Callable[..., Made]


@pytest.fixture(autouse=True)
def reruns(monkeypatch: pytest.MonkeyPatch) -> list[SideSpec]:
    """Nothing starts a process; sides asked for again cannot be run, and are listed."""
    asked: list[SideSpec] = []

    def refuse(trial: Trial) -> dict[str, Capture]:
        asked.append(trial.spec)
        raise EngineError("no such side")

    monkeypatch.setattr(stage, "_rerun", lambda *_: refuse)
    monkeypatch.setattr(
        driver, "open_session",
        lambda spec, out: InProcess(spec.model_copy(update={"dtype": "float32"}), out / "captures"),
    )  # fmt: skip
    return asked


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A run of these options."""
    prompts = tmp_path / "sums.jsonl"
    lines = [json.dumps({"text": f"{i} plus {31 - i}?"}) for i in range(10)]
    prompts.write_text("\n".join(lines) + "\n")
    probe = tmp_path / "sums.toml"
    probe.write_text(PROBE.format(prompts=prompts))

    def build(**options: Any) -> Made:
        asked = DiagnoseRequest(
            model="fake", probe=str(probe), engine="fake", trainer="fake", dtype="float32",
            depth="quick",
        )  # fmt: skip
        out = tmp_path / "run"
        (out / "captures").mkdir(parents=True)
        return Made(build_run(replace(asked, **options)), out)

    return build


def told(found: Findings) -> list[tuple[str, str]]:
    return [(cause.id, cause.side) for cause in found.verdict.causes]


def only(found: Findings) -> Cause:
    (cause,) = found.verdict.causes
    return cause


def test_healthy_sides_need_no_explanation(make: Make) -> None:
    found = make().attributed()
    assert found.verdict.status == "match"
    assert found.verdict.experiments == []


def test_sampling_that_leaves_the_temperature_out(make: Make) -> None:
    found = make(engine_args=("defect=temperature_raw",), temperature=0.6).attributed()
    cause = only(found)
    assert (cause.id, cause.side) == ("raw-logprobs-temperature", "infer")
    assert cause.confidence > 0.9
    (confirmed,) = cause.confirmed_by
    assert confirmed.after < 1e-3 * confirmed.before
    ruled_out = {r.id for r in found.verdict.ruled_out}
    assert "sampling-penalties" in ruled_out
    assert cause.id not in ruled_out


def test_a_trainer_that_leaves_the_temperature_out(make: Make) -> None:
    found = make(trainer_args=("defect=temperature_raw",), temperature=0.6).attributed()
    # A scale of 0.6 says the same, with a fitted number more.
    assert told(found) == [("raw-logprobs-temperature", "train")]
    assert only(found).confidence > 0.9


def test_a_nucleus_is_seen_beside_raw_log_probs_and_not_ruled_out(make: Make) -> None:
    nucleus = SuppositionRecord(
        name="top_p", value=0.7, between=(0.69, 0.72), gain_nats=40.0, held_out_nats=20.0,
        noticed_below=0.9, noticed_above=float("nan"),
    )  # fmt: skip
    drawn = DrawnFindings(
        n=240, n_impossible=0, z=9.0, z_limit=4.06, gain_limit_nats=12.0, suppositions=[nucleus]
    )
    made = make(engine_args=("defect=temperature_raw",), temperature=0.7, top_p=0.7)
    found = made.attributed(drawn=drawn)
    assert told(found) == [("raw-logprobs-temperature", "infer"), ("sampler-truncation", "infer")]
    cut = found.verdict.causes[1]
    assert "top-p of 0.7" in cut.why
    assert cut.confirmed_by[0].after < cut.confirmed_by[0].before
    assert "sampler-truncation" not in {r.id for r in found.verdict.ruled_out}


def test_what_was_asked_for_is_not_ruled_out(make: Make) -> None:
    # So wide a nucleus cannot be seen in so few tokens; nor is it known not to be there.
    found = make(engine_args=("defect=temperature_raw",), temperature=0.7, top_p=0.999).attributed()
    assert told(found) == [("raw-logprobs-temperature", "infer")]
    assert "sampler-truncation" not in {r.id for r in found.verdict.ruled_out}
    assert "sampling-penalties" in {r.id for r in found.verdict.ruled_out}


def test_a_random_trainer(make: Make, reruns: list[SideSpec]) -> None:
    found = make(trainer_args=("defect=dropout", "defect_size=0.1")).attributed()
    assert told(found)[0] == ("dropout-active", "train")
    assert [spec.no_dropout for spec in reruns] == [True]
    assert "could not be run" in found.verdict.experiments[0].result


def test_a_changed_tensor_is_loaded_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(trainer_args=("defect=tensor",))
    asked: list[SideSpec] = []

    def rerun(trial: Trial) -> dict[str, Capture]:
        asked.append(trial.spec)
        return {SCORED: made.sound_train()}

    monkeypatch.setattr(stage, "_rerun", lambda *_: rerun)
    found = made.attributed()
    cause = only(found)
    assert (cause.id, cause.side, cause.location) == ("stale-tensor", "train", TENSOR)
    assert cause.confidence == 0.95
    assert cause.confirmed_by[-1].after < 1e-3 * cause.confirmed_by[-1].before
    assert [spec.resync for spec in asked] == [(TENSOR,)]


def test_a_coarse_format_is_named_once_however_often_it_is_met(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(trainer_args=("defect=tensor",))

    def rounded(capture: Capture) -> Capture:
        return replace(capture, logp=np.round(capture.logp, 2))

    made.captures["train"] = rounded(made.captures["train"])
    monkeypatch.setattr(stage, "_rerun", lambda *_: lambda _: {SCORED: rounded(made.sound_train())})
    found = told(made.attributed())
    assert sorted(found) == [("logprob-precision", "train"), ("stale-tensor", "train")]


def test_constants_among_log_probs_are_a_mismatch_whatever_the_average(make: Make) -> None:
    made = make()
    decode = made.captures["decode"]
    logp = decode.logp.copy()
    at = np.flatnonzero(decode.rows.sampled)[[3, 50]]
    logp[at] = -9.0
    made.captures["decode"] = replace(decode, logp=logp)
    found = made.attributed()
    assert found.verdict.status == "mismatch"
    assert told(found) == [("sentinel-values", "infer")]


def test_a_budget_that_is_used_up_is_noted(make: Make) -> None:
    found = make(engine_args=("defect=decode",)).attributed(budget_s=-1.0)
    assert told(found) == [("decode-prefill-divergence", "infer")]
    assert any("budget" in note for note in found.notes)
    assert found.verdict.experiments == []
