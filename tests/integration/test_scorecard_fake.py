"""A small card on the fake engine: killed, resumed, judged; stages that ran are not run again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import small_card
from program import ROOT, Lab, wait_for

from mismatch_lab.engines.provenance import gather
from mismatch_lab.executors.cache import DONE
from mismatch_lab.scorecard.card import build_card
from mismatch_lab.scorecard.records import CaseResult
from mismatch_lab.scorecard.store import CACHE, CASES, WORK, load_results


def start(out: Path, probe: Path, workers: int = 1, mark: str = "") -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, small_card.__file__, str(out), str(probe), str(workers)],
        # Offline: a fake model is on no hub, where its record's reference would be looked for.
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "MISMATCH_LAB_TEST": mark, "HF_HUB_OFFLINE": "1"},
        stderr=subprocess.DEVNULL,
        # Started from a background job, it would inherit that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory, probe: Path) -> Path:
    """A card that was killed after its first case and run again."""
    out = tmp_path_factory.mktemp("cards") / "card"
    with start(out, probe) as process:
        wait_for(lambda: any((out / CASES).glob("*.json")), "the first case")
        process.kill()
    left = {path.name for path in (out / CASES).iterdir()}
    assert "healthy.json" in left
    assert "refused.json" not in left
    first = (out / CASES / "healthy.json").stat()
    with start(out, probe) as process:
        assert process.wait(timeout=120) == 0
    assert (out / CASES / "healthy.json").stat().st_mtime_ns == first.st_mtime_ns
    return out


@pytest.fixture(scope="module")
def results(card: Path) -> dict[str, CaseResult]:
    return {result.case.id: result for result in load_results(card)}


def test_every_case_has_its_result(results: dict[str, CaseResult]) -> None:
    assert sorted(results) == ["halved", "healthy", "refused", "scaled"]


def test_the_healthy_one_is_not_called_broken(results: dict[str, CaseResult]) -> None:
    healthy = results["healthy"]
    assert healthy.status == "match"
    assert healthy.judgement is not None
    assert healthy.judgement.false_alarm is False
    assert healthy.effect_nats < 1e-5


def test_what_is_planted_reaches_the_side(results: dict[str, CaseResult]) -> None:
    scaled, halved = results["scaled"], results["halved"]
    assert scaled.judgement is not None
    assert halved.judgement is not None
    assert scaled.judgement.detected
    assert halved.judgement.detected
    # Half of each log-prob is lost: the mean |delta| is half the mean |log-prob|, some 1 nat.
    assert 0.2 < halved.effect_nats < 5
    assert scaled.floor_ratio > 100


def test_a_case_that_cannot_run_says_why_and_the_card_goes_on(
    results: dict[str, CaseResult],
) -> None:
    refused = results["refused"]
    assert refused.judgement is None
    assert "no defect 'no_such_defect'" in refused.problem
    assert not refused.not_applicable
    card = build_card(list(results.values()), 4, "fake", "full", gather([]))
    assert [result.case.id for result in card.not_run] == ["refused"]
    assert (card.by_severity[-1].cases, card.controls.cases) == (2, 1)


def test_what_two_cases_share_ran_once(card: Path) -> None:
    # Engine, trainer and reference of healthy; the trainer of scaled, which shares the other two;
    # trainer and reference of halved, whose source is another capture. Refused adds none.
    assert len(list((card / CACHE).glob(f"*/{DONE}"))) == 6


def test_a_diagnosis_costs_what_it_would_cost_alone(results: dict[str, CaseResult]) -> None:
    assert results["halved"].diagnosis_s > 0
    # Its engine stage was copied, and counts all the same.
    assert results["scaled"].diagnosis_s > results["scaled"].wall_s / 2


def test_nothing_is_left_of_the_runs(card: Path) -> None:
    # The killed case's folder stays behind, a finished one's does not.
    left = [path for path in (card / WORK).iterdir() if path.name.startswith("tmp")]
    assert len(left) <= 1


def test_results_are_whole_json(card: Path) -> None:
    for path in (card / CASES).iterdir():
        assert path.suffix == ".json"  # no .tmp
        assert json.loads(path.read_text())["schema_version"] == 1


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGKILL])
def test_nothing_runs_on_after_a_card_of_several_workers(
    tmp_path: Path, probe: Path, lab: Lab, way: signal.Signals
) -> None:
    out = tmp_path / "card"
    with start(out, probe, workers=2, mark=lab.mark) as process:
        # The card, two cases, the server, and a worker at least.
        wait_for(lambda: len(lab.alive()) >= 5, "two cases under way")
        process.send_signal(way)
    wait_for(lambda: not lab.alive(), "its processes to end")
    left = [path for path in (out / WORK).iterdir() if path.name.startswith("tmp")]
    assert way == signal.SIGKILL or not left
    assert all(load_results(out))  # none of them half


def test_two_workers_find_what_one_finds(
    tmp_path: Path, probe: Path, lab: Lab, results: dict[str, CaseResult]
) -> None:
    out = tmp_path / "card"
    with start(out, probe, workers=2, mark=lab.mark) as process:
        assert process.wait(timeout=120) == 0
    found = {result.case.id: result for result in load_results(out)}
    assert list(found) == list(results)
    for name, result in found.items():
        same = {"judgement", "status", "headline", "causes", "black_box", "effect_nats", "problem"}
        one = results[name].model_dump_json(include=same)
        folder = re.compile(r"\S*/logs/")
        assert folder.sub("", result.model_dump_json(include=same)) == folder.sub("", one)


def test_captures_alone_are_judged_apart(results: dict[str, CaseResult]) -> None:
    scaled, healthy = results["scaled"], results["healthy"]
    assert scaled.black_box is not None
    assert scaled.black_box.judgement is not None
    assert scaled.judgement is not None
    # Without a module nobody tells a head that is scaled from anything else wrong in the model.
    assert scaled.black_box.judgement.detected
    assert not scaled.black_box.judgement.cause
    assert healthy.black_box is not None
    assert healthy.black_box.status == "match"
    assert results["refused"].black_box is None


def test_a_record_that_cannot_be_diagnosed_costs_its_own_answer_alone(
    results: dict[str, CaseResult],
) -> None:
    scaled = results["scaled"]
    assert scaled.recorded is not None
    assert scaled.judgement is not None  # of the run
    assert scaled.recorded.judgement is None
    assert "Model fake" in scaled.recorded.problem  # the fake engine's has no checkpoint
    card = build_card(list(results.values()), 4, "fake", "full", gather([]))
    assert [r.case.id for r in card.recorded.unanswered] == ["halved", "healthy", "scaled"]
