"""Two fake engines and a trainer: the one with a planted defect stands alone, or nobody does."""

from __future__ import annotations

from pathlib import Path

import pytest

from mismatch_lab.findings.build import load_captures
from mismatch_lab.report import page
from mismatch_lab.run.diagnose import diagnose
from mismatch_lab.run.request import DiagnoseRequest, build_run
from mismatch_lab.schema import Findings, OptionValue, RunSpec, Strict

Args = dict[str, OptionValue]
SIDES = ("infer", "second", "train")
WRONG: Args = {"defect": "lm_head_scale", "defect_size": 0.1}


def three(probe: Path, dtype: str = "float32", repeats: int = 1, **args: Args) -> RunSpec:
    """A run with a second fake engine; options of each program by its side."""
    asked = DiagnoseRequest(
        model="fake", probe=str(probe), engine="fake", trainer="fake", dtype=dtype,
        repeats=repeats, command=("mismatch-lab", "diagnose", "--engine", "fake"),
    )  # fmt: skip
    run = build_run(asked)
    sides: dict[str, Strict] = {"infer": run.infer, "train": run.train}
    sides["second"] = run.infer.model_copy(update={"side": "second"})
    return run.model_copy(
        update={s: sides[s].model_copy(update={"args": args.get(s, {})}) for s in SIDES}
    )


def found(run: RunSpec, out: Path) -> Findings:
    return diagnose(run, out, False, lambda event: None, budget_s=0)


@pytest.mark.parametrize(("dtype", "status"), [("float32", "match"), ("bfloat16", "numerics")])
def test_where_nothing_is_planted_nobody_stands_alone(
    probe: Path, tmp_path: Path, dtype: str, status: str
) -> None:
    findings = found(three(probe, dtype), tmp_path / "run")
    assert findings.verdict.status == status
    assert findings.three_way is not None
    assert findings.three_way.stands_alone == "none", findings.three_way.why
    assert findings.verdict.reasons[1] == findings.three_way.why
    edges = ("decode_second", "prefill_second", "second_train", "second_ref")
    names = findings.edges["decode_train"].keys()
    assert all(findings.edges[edge].keys() >= names for edge in edges)
    assert "kl_infer_train_exact" in findings.edges["second_train"]
    assert findings.noise_floor is not None
    assert findings.noise_floor.second_ratio is not None
    assert findings.noise_floor.second_ratio.n > 256
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Stands alone: nobody" in page
    assert "<code>second_ref</code>" in page


@pytest.mark.parametrize("side", SIDES)
def test_who_holds_a_defect_stands_alone(
    probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    monkeypatch.setattr(page, "write_report", lambda folder: folder)
    findings = found(three(probe, **{side: WRONG}), tmp_path / "run")
    assert findings.three_way is not None
    assert findings.three_way.stands_alone == side, findings.three_way.why
    # Engine and trainer are still judged by themselves.
    assert findings.verdict.status == ("match" if side == "second" else "mismatch")
    assert findings.verdict.next_command.endswith("--engine fake") == (side == "second")


def test_two_that_share_a_defect_leave_the_third_alone(probe: Path, tmp_path: Path) -> None:
    """Two against one says who differs, not who is right: here it is the trainer that is."""
    findings = found(three(probe, infer=WRONG, second=WRONG), tmp_path / "run")
    assert findings.three_way is not None
    assert findings.three_way.stands_alone == "train"


def test_no_two_that_agree_are_undecided(probe: Path, tmp_path: Path) -> None:
    other: Args = {"defect": "attention_layer0", "defect_size": 0.5}
    findings = found(three(probe, infer=WRONG, second=other), tmp_path / "run")
    assert findings.three_way is not None
    assert findings.three_way.stands_alone == "undecided"


def test_further_runs_have_a_second_engine_too(probe: Path, tmp_path: Path) -> None:
    findings = found(three(probe, repeats=2, second=WRONG), tmp_path / "run")
    assert findings.over_runs is not None
    assert findings.over_runs.floor_ratios["second_train_ratio"].n == 2
    assert findings.over_runs.edges["second_train"]["abs_delta_mean"].n == 2
    assert "second" in load_captures(tmp_path / "run" / "repeats" / "2")
