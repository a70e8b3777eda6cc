"""The gate against a baseline: compared, refused, accepted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_runs import BASELINE, baseline, judged

from mismatch_lab.errors import MismatchLabError
from mismatch_lab.gate.baseline import baseline_of, compared, read_baseline, write_baseline
from mismatch_lab.gate.command import GateRequest, run_gate
from mismatch_lab.gate.judge import GateResult
from mismatch_lab.gate.record import Record, read_record


def test_a_broken_run_fails_against_a_baseline_by_its_ratio(
    healthy: Path, broken: Path, tmp_path: Path
) -> None:
    kept = baseline(healthy, tmp_path / "baseline.json")
    found = judged(broken, BASELINE.format(measure="abs_delta_mean"), tmp_path, baseline=kept)
    (rule,) = found.results
    assert rule.outcome == "failed"
    sizes = [
        json.loads((run / "findings.json").read_text())["edges"]["decode_train"]["abs_delta_mean"]
        for run in (broken, healthy)
    ]
    # Other positions and weights than a plain ratio of means, but of that size.
    assert rule.value == pytest.approx(sizes[0]["value"] / sizes[1]["value"], rel=0.2)
    assert rule.ci95[0] > rule.limit == 2


def test_answers_that_the_baseline_has_no_positions_of_are_not_compared(
    healthy: Path, tmp_path: Path
) -> None:
    record = read_record(healthy)
    kept = baseline_of(record)
    own = kept.sequences["decode_train"]
    late = [[0, 0, 0, 0, 0, 0, sum(row)] for row in own.tokens]
    moved = own.model_copy(update={"tokens": late})
    kept = kept.model_copy(update={"sequences": {**kept.sequences, "decode_train": moved}})
    found = against(kept, healthy, tmp_path)
    assert found.exit_code == 2
    assert "only 0% of the tokens stand at positions" in found.headline


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("probe", "moe", "other probe: moe"),
        ("weights", "0", "other weights"),
        ("prompts", "0", "other prompts"),
        ("dtype", "float32, float32", "other dtype: float32, float32"),
        ("infer", "vllm", "other engine: vllm"),
        ("sampling", "temperature 0.7, top_p 1", "other sampling"),
    ],
)
def test_a_baseline_of_something_else_says_nothing(
    healthy: Path, tmp_path: Path, field: str, value: str, says: str
) -> None:
    kept = baseline_of(read_record(healthy))
    subject = kept.subject.model_copy(update={field: value})
    found = against(kept.model_copy(update={"subject": subject}), healthy, tmp_path)
    assert found.exit_code == 2
    assert says in found.headline


def test_a_baseline_of_another_major_version_says_nothing(healthy: Path, tmp_path: Path) -> None:
    kept = baseline_of(read_record(healthy)).model_copy(update={"mismatch_lab": "99.1"})
    assert "it is of mismatch-lab 99.1" in against(kept, healthy, tmp_path).headline


def against(kept: Any, run: Path, tmp_path: Path) -> GateResult:
    """Judged against a baseline that is whole, whatever was changed in it."""
    path = tmp_path / "baseline.json"
    write_baseline(path, kept)
    return judged(run, BASELINE.format(measure="abs_delta_mean"), tmp_path, baseline=path)


def test_a_baseline_that_is_missing_edited_or_of_another_schema_is_an_error(
    healthy: Path, tmp_path: Path
) -> None:
    path = tmp_path / "baseline.json"
    with pytest.raises(MismatchLabError, match="does not exist"):
        judged(healthy, baseline=path)
    text = baseline(healthy, path).read_text()
    assert judged(healthy, baseline=path).outcome == "passed"
    for changed, says in (
        (text.replace('"status": "', '"status": "x'), "status"),
        (text.replace('"schema_version": 1', '"schema_version": 2'), "schema_version"),
        (text[: len(text) // 2], "damaged"),
        (text.replace('"n_dropped": 0', '"n_dropped": 1', 1), "edited by hand, or merged"),
        (text.replace("<<", "") + "<<<<<<< HEAD\n", "damaged"),
    ):
        assert changed != text
        path.write_text(changed)
        with pytest.raises(MismatchLabError, match=says):
            judged(healthy, baseline=path)


@pytest.mark.parametrize(
    ("measure", "ratio"),
    [
        ("abs_delta_mean", 4.0),  # 0.4 nats on every token, after 0.1
        ("kl_infer_train_k3", (np.expm1(0.4) - 0.4) / (np.expm1(0.1) - 0.1)),
    ],
)
def test_measures_of_a_baseline_by_hand(healthy: Path, measure: str, ratio: float) -> None:
    record = read_record(healthy)
    infer = record.captures["decode"]

    def off_by(nats: float) -> Record:
        train = replace(record.captures["train"], logp=(infer.logp + np.float32(nats)))
        return replace(record, captures={**record.captures, "train": train})

    found = compared(baseline_of(off_by(0.1)), off_by(0.4), "decode_train", measure, 0.005)
    assert found is not None
    assert (found.low, found.ratio, found.high) == pytest.approx((ratio,) * 3, rel=1e-3)


def test_a_tail_is_the_share_of_tokens_beyond_the_baselines_p99(healthy: Path) -> None:
    record = read_record(healthy)
    infer, train = record.captures["decode"], record.captures["train"]
    worse = replace(train, logp=infer.logp + 4 * (train.logp - infer.logp))
    now = replace(record, captures={**record.captures, "train": worse})
    found = compared(baseline_of(record), now, "decode_train", "abs_delta_p99", 0.005)
    assert found is not None
    assert found.low > 2


def test_accepting_writes_a_baseline_says_what_changed_and_refuses_what_fails(
    healthy: Path,
    again: Path,
    broken: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "baseline.json"
    monkeypatch.setenv("COLUMNS", "200")

    def accept(run: Path, force: bool = False) -> int:
        request = GateRequest(paths=(run,), baseline=path, accept=True, force=force)
        return run_gate(request, json_output=False)

    assert accept(broken) == 1
    assert not path.exists()
    assert "--force" in capsys.readouterr().out
    assert accept(healthy) == 0
    first = read_baseline(path)
    assert accept(again) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "decode_train abs_delta_mean" in out
    assert read_baseline(path).sequences != first.sequences
    assert accept(broken, force=True) == 0
    assert read_baseline(path).status == "mismatch"
