"""The gate on whole runs of the fake engine: passed, failed, and each way not to be measured.

Each test tampers with a copy of one healthy run. A gate that fails open passes at least one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from gate_runs import BASELINE, LIMIT, NO_NUMBER, STATUS, baseline, edited, judged, recaptured
from program import Lab

from mismatch_lab.captures.capture import Capture, chosen_rows
from mismatch_lab.captures.store import load_capture, save_capture
from mismatch_lab.errors import MismatchLabError
from mismatch_lab.gate.baseline import baseline_of
from mismatch_lab.gate.command import GateRequest, gate, run_gate
from mismatch_lab.gate.judge import judge
from mismatch_lab.gate.record import read_record
from mismatch_lab.gate.rules import default_rules, load_rules


def test_a_healthy_run_passes_with_and_without_a_baseline(
    healthy: Path, again: Path, tmp_path: Path
) -> None:
    alone = judged(healthy)
    assert (alone.outcome, alone.exit_code) == ("passed", 0)
    skipped = {one.name for one in alone.results if one.outcome == "skipped"}
    assert skipped >= {"no-worse", "no-worse-prefill"}
    kept = baseline(healthy, tmp_path / "baseline.json")
    assert judged(again, baseline=kept).outcome == "passed"


def test_a_broken_run_fails_and_the_first_line_says_how_and_why(
    broken: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(broken, tmp_path / "copy"))
    cause = {"id": "shift-by-one", "family": "tokens", "side": "train", "confidence": 0.98}
    named = cause | {"location": "model.norm", "evidence": []}
    edited(run, "findings.json", lambda f: f["verdict"].update(causes=[named]))
    found = judged(run)
    assert (found.outcome, found.exit_code) == ("failed", 1)
    headline = json.loads((run / "findings.json").read_text())["verdict"]["headline"]
    assert found.headline.startswith(f"failed: verdict: {headline}")
    assert found.headline.endswith("; cause: shift-by-one (train at model.norm, confidence 0.98)")
    rules = '[[causes]]\nname = "c"\nreason = "r"\nforbidden = ["{}"]\nconfidence = {}\n'
    for forbidden, confidence, outcome in (
        ("shift-by-one", 0.9, "failed"),
        ("shift-by-one", 0.99, "passed"),
        ("packing-leak", 0.9, "passed"),
    ):
        assert judged(run, rules.format(forbidden, confidence), tmp_path).outcome == outcome


def test_an_interval_that_holds_the_limit_is_underpowered_and_says_what_would_decide(
    healthy: Path, tmp_path: Path
) -> None:
    size = json.loads((healthy / "findings.json").read_text())["edges"]["decode_train"]
    estimate = size["abs_delta_mean"]
    limit = (estimate["value"] + estimate["ci95"][1]) / 2  # half-way to the upper end
    rules = (
        '[[limit]]\nname = "l"\nreason = "r"\nedge = "decode_train"\n'
        f'measure = "abs_delta_mean"\nbelow = {limit!r}\n'
    )
    found = judged(healthy, rules, tmp_path)
    assert (found.outcome, found.exit_code) == ("not measured", 2)
    assert found.results[0].outcome == "underpowered"
    assert found.results[0].n_needed == pytest.approx(4 * estimate["n"], abs=1)  # half the width


def test_one_bad_sequence_fails_though_its_mean_hides_it(copy: Path, tmp_path: Path) -> None:
    rules = (
        '[[sequences]]\nname = "q"\nreason = "r"\nedge = "decode_train"\nbelow_nats = 0.3\n'
        "{share}\n"
    )
    assert judged(copy, rules.format(share=""), tmp_path).outcome == "passed"

    def spoil(capture: Capture) -> Capture:
        logp = capture.logp.copy()
        start, stop = list(capture.rows.spans())[3]
        logp[start:stop] -= 1.0
        return replace(capture, logp=logp)

    recaptured(copy, "train", spoil)
    record = read_record(copy)
    assert record.problems  # findings are those of the untouched captures
    path = tmp_path / "rules.toml"
    found = judge(replace(record, problems=()), load_rules(path), None)
    assert found.outcome == "failed"
    assert "1 of 24 sequences" in found.headline
    assert "row 3" in found.headline
    path.write_text(rules.format(share="share = 0.05"))
    shares = judge(replace(record, problems=()), load_rules(path), None)
    assert shares.results[0].outcome == "underpowered"  # 1 of 24 may be 5 % or 20 %


NOT_MEASURED: dict[str, tuple[Callable[[Path], None], str]] = {
    "findings that end in the middle": (
        lambda run: (run / "findings.json").write_text(
            (run / "findings.json").read_text()[:-500]
        ) and None,
        "is damaged",
    ),
    "a run that did not finish": (
        lambda run: (run / "findings.json").unlink(),
        "it has no findings.json",
    ),
    "findings of another schema": (
        lambda run: edited(run, "findings.json", lambda f: f.update(schema_version=2)),
        "schema_version",
    ),
    "findings of another run": (
        lambda run: edited(run, "findings.json", lambda f: f.update(run="other")),
        "The findings are of run other",
    ),
    "an early stop": (
        lambda run: edited(run, "run.json", lambda r: r["prompts"].append(r["prompts"][0])),
        "24 of 25 prompts have an answer",
    ),
    "a repeat that failed": (
        lambda run: edited(run, "findings.json", lambda f: f.update(over_runs=FAILED_REPEAT)),
        "Run 2 of 1 failed: out of memory",
    ),
    "a capture that is missing": (
        lambda run: shutil.rmtree(run / "captures" / "train"),
        "has no capture 'train'",
    ),
    "a capture that is damaged": (
        lambda run: (run / "captures" / "train" / "arrays.safetensors").write_bytes(b"no"),
        "does not match its checksum",
    ),
    "other token ids": (
        lambda run: recaptured(run, "train", lambda c: other_ids(c)),
        "token",
    ),
    "findings of other captures": (
        lambda run: recaptured(run, "train", lambda c: replace(c, logp=c.logp - 0.01)),
        "findings.json is not of these captures",
    ),
    "log-probs that became NaN": (
        lambda run: recaptured(run, "train", lambda c: replace(c, logp=c.logp * np.nan)),
        "findings.json is not of these captures",
    ),
}  # fmt: skip

FAILED_REPEAT = {
    "runs": [
        {"run": 1, "seed": 0, "status": "match", "headline": ""},
        {"run": 2, "seed": 1, "status": "error", "headline": "out of memory"},
    ],
    "edges": {},
    "floor_ratios": {},
    "wider": [],
}


def other_ids(capture: Capture) -> Capture:
    ids = capture.rows.token_ids.copy()
    ids[-1] = 1 if ids[-1] != 1 else 2
    return replace(capture, rows=replace(capture.rows, token_ids=ids))


@pytest.mark.parametrize("name", NOT_MEASURED)
def test_what_is_no_measurement_never_passes(
    copy: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tamper, says = NOT_MEASURED[name]
    tamper(copy)
    files = {"junit": tmp_path / "junit.xml", "summary": tmp_path / "summary.md"}
    request = GateRequest(paths=(copy,), **files)
    try:
        assert run_gate(request, json_output=True) == 2
        said = capsys.readouterr().out
    except MismatchLabError as error:  # the program prints it and ends with 2
        said = str(error)
    assert says in said
    suite = ElementTree.parse(files["junit"]).getroot()[0]
    assert int(suite.attrib["errors"]) >= 1
    assert suite.attrib["failures"] == "0"
    assert "not measured" in files["summary"].read_text()


def test_a_measure_copied_from_the_other_side_is_none(copy: Path, tmp_path: Path) -> None:
    decode, _ = load_capture(copy / "captures" / "decode")
    recaptured(copy, "train", lambda capture: replace(capture, logp=decode.logp))
    record = replace(read_record(copy), problems=())
    assert record.identical
    found = judge(record, default_rules(), None)
    assert found.exit_code == 2
    assert "to the last bit" in found.headline
    allowed = tmp_path / "rules.toml"
    allowed.write_text("allow_identical = true\n" + STATUS)
    assert judge(record, load_rules(allowed), None).outcome == "passed"


def test_rows_that_are_counted_twice_are_no_data(healthy: Path, tmp_path: Path) -> None:
    paths = []
    for name in ("decode", "train"):
        capture, manifest = load_capture(healthy / "captures" / name)
        paths.append(tmp_path / name)
        save_capture(paths[-1], chosen_rows(capture, np.array([*range(24), 1])), manifest)
    found = gate(GateRequest(paths=tuple(paths)))[0]
    assert found.exit_code == 2
    assert "Rows 1 and 24 are the same tokens" in found.headline


@pytest.mark.parametrize(
    ("rules", "outcome", "says"),
    [
        (
            '[[limit]]\nname = "l"\nreason = "r"\nedge = "decode_eager"\nmeasure = "ess"\n'
            "above = 0.5\n",
            "error",
            "decode_eager ess was not measured",
        ),
        ("min_tokens = 100000\n" + STATUS + (
            '[[limit]]\nname = "l"\nreason = "r"\nedge = "decode_train"\nmeasure = "ess"\n'
            "above = 0.1\n"
        ), "underpowered", "at least 100000 in 4 decide"),
        (BASELINE.format(measure="abs_delta_mean"), "error", "no baseline was given"),
        (STATUS + 'probes = ["moe"]\n', "skipped", "no rule applies"),
        (
            '[[sequences]]\nname = "q"\nreason = "r"\nedge = "decode_eager"\nbelow_nats = 1.0\n',
            "error",
            "no sequences of decode_eager",
        ),
    ],
)  # fmt: skip
def test_what_a_rule_cannot_tell_never_passes(
    healthy: Path, tmp_path: Path, rules: str, outcome: str, says: str
) -> None:
    found = judged(healthy, rules, tmp_path)
    assert found.exit_code == 2
    assert says in found.headline
    assert outcome in {one.outcome for one in found.results}


@pytest.mark.parametrize(
    ("estimate", "says"),
    [
        ({"n": 0, "value": NO_NUMBER, "ci95": (NO_NUMBER, NO_NUMBER)}, "no data"),
        ({"value": NO_NUMBER}, "no data"),
        ({"n_dropped": 3}, "3 tokens have no log-prob"),
        ({"ci95": (NO_NUMBER, NO_NUMBER)}, "it has no interval"),
        ({"ci95": (0.0, NO_NUMBER)}, "it has no interval"),
    ],
)
def test_no_number_is_below_a_limit_of_a_hundred_nats(
    healthy: Path, tmp_path: Path, estimate: dict[str, Any], says: str
) -> None:
    record = read_record(healthy)
    own = record.edges["decode_train"]["abs_delta_mean"].model_copy(update=estimate)
    edges = record.edges | {"decode_train": record.edges["decode_train"] | {"abs_delta_mean": own}}
    path = tmp_path / "rules.toml"
    against: dict[str, Any] = {LIMIT: None}
    if "interval" not in says:  # that of a ratio to a baseline is another one
        against[BASELINE.format(measure="abs_delta_mean")] = baseline_of(record)
    for rules, kept in against.items():
        path.write_text(rules)
        found = judge(replace(record, edges=edges), load_rules(path), kept)
        assert found.exit_code == 2
        assert says in found.headline


def test_no_data_passes_by_no_exception(healthy: Path, tmp_path: Path) -> None:
    """A measure without data, on an edge that is small enough not to matter."""
    record = read_record(healthy)
    own = record.edges["decode_train"]
    empty = {"n": 0, "value": NO_NUMBER, "ci95": (NO_NUMBER, NO_NUMBER)}
    edges = {"decode_train": own | {"ess": own["ess"].model_copy(update=empty)}}
    path = tmp_path / "rules.toml"
    path.write_text(
        LIMIT.replace("abs_delta_mean", "ess").replace("below", "above") + "unless_below_nats = 9\n"
    )
    found = judge(replace(record, edges=edges), load_rules(path), None)
    assert (found.exit_code, found.results[0].outcome) == (2, "error")


def test_a_rule_for_other_probes_is_seen_to_be_left_out(healthy: Path, tmp_path: Path) -> None:
    """So is one whose probe is misspelt."""
    found = judged(healthy, STATUS + LIMIT + 'probes = ["quik"]\n', tmp_path)
    assert found.headline == "passed: 1 rules, 1 skipped"
    assert found.results[1].message == "for other probes: quik"


def test_wrong_rules_are_told_to_the_ci_system_as_well(healthy: Path, tmp_path: Path) -> None:
    rules, junit = tmp_path / "rules.toml", tmp_path / "junit.xml"
    rules.write_text("[[limits]]\n")
    with pytest.raises(MismatchLabError, match="limits"):
        run_gate(GateRequest(paths=(healthy,), rules=rules, junit=junit), json_output=False)
    assert ElementTree.parse(junit).getroot()[0].attrib["errors"] == "1"


def test_the_program_ends_with_the_code_and_hostile_text_stays_text(
    lab: Lab, broken: Path, healthy: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(broken, tmp_path / "copy"))
    hostile = "<b>|x|\x00\x1b[31m]]>\uffff\n::error::x`"
    edited(run, "findings.json", lambda f: f["verdict"].update(headline=hostile))
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    done = lab.call("gate", run, "--junit", junit, "--summary", summary)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("failed: verdict: ")
    assert "\x1b" not in done.stdout
    failure = ElementTree.parse(junit).getroot().find(".//failure")
    assert failure is not None
    assert failure.attrib["message"].startswith("<b>|x|")
    assert "\\<b\\>\\|x\\|" in summary.read_text()
    assert json.loads((run / "gate.json").read_text())["outcome"] == "failed"
    assert lab.call("gate", healthy).returncode == 0
    assert lab.call("gate", tmp_path / "nothing").returncode == 2
    assert lab.call("gate").returncode == 2
    assert lab.call("gate", healthy, "--force").returncode == 2


def test_captures_alone_are_judged_by_rules_that_they_can_answer(
    healthy: Path, tmp_path: Path
) -> None:
    paths = (healthy / "captures" / "decode", healthy / "captures" / "train")
    rules = tmp_path / "rules.toml"
    rules.write_text(
        '[[limit]]\nname = "l"\nreason = "r"\nedge = "decode_train"\nmeasure = "ess"\nabove = 0.5\n'
    )
    assert gate(GateRequest(paths=paths, rules=rules))[0].outcome == "passed"
    # Without a reference there is no floor: the default rules cannot pass them.
    assert gate(GateRequest(paths=paths))[0].exit_code != 0


@pytest.mark.parametrize(("temperature", "code"), [(1.0, 0), (0.7, 2)])
def test_raw_and_processed_log_probs_are_the_same_at_temperature_1_alone(
    copy: Path, tmp_path: Path, temperature: float, code: int
) -> None:
    manifest = "captures/decode/manifest.json"
    edited(copy, manifest, lambda m: m.update(logprob_space="raw"))
    edited(copy, manifest, lambda m: m["sampling"].update(temperature=temperature))
    path = tmp_path / "rules.toml"
    path.write_text(LIMIT)
    paths = (copy / "captures" / "decode", copy / "captures" / "train")
    assert gate(GateRequest(paths=paths, rules=path))[0].exit_code == code


def test_a_gate_that_runs_the_diagnosis_itself(lab: Lab, probe: Path, tmp_path: Path) -> None:
    options = f"fake --engine fake --trainer fake --dtype float32 --probe {probe} --budget 0"
    done = lab.call("gate", "--run", options, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("passed: ")
    wrong = lab.call("gate", "--run", "fake --engine nothing", "--out", tmp_path / "other")
    assert wrong.returncode == 2
    assert "Unknown engine" in wrong.stderr
