"""Shares, intervals, the confusion and the aims, from results made by hand."""

from __future__ import annotations

import math

import pytest

from mismatch_lab.engines.provenance import gather
from mismatch_lab.schema import Cause
from mismatch_lab.scorecard import accuracy
from mismatch_lab.scorecard.card import build_card
from mismatch_lab.scorecard.judge import judge
from mismatch_lab.scorecard.records import BlackBox, Case, CaseResult, Truth


def named(name: str, confidence: float) -> Cause:
    return Cause(
        id=name, family="attention", side="train", confidence=confidence, location=None, evidence=[]
    )


def single(
    planted: str, said: str | None, confidence: float = 0.95, severity: str = "plain"
) -> CaseResult:
    truth = Truth(
        fault=f"{planted}-fault", severity=severity, causes=(planted,), families=("attention",),
        sides=("train",), location=None,
    )  # fmt: skip
    case = Case(
        id=f"{planted}.{said}.{severity}",
        kind="single",
        model="m",
        dtype="float32",
        engine="vllm",
        truths=(truth,),
    )
    causes = [named(said, confidence)] if said else []
    return CaseResult(
        case=case, judgement=judge(case, "mismatch", causes), causes=tuple(causes),
        diagnosis_s=10, experiments=2, status="mismatch", headline="h", code="abc",
    )  # fmt: skip


def control(said: str | None) -> CaseResult:
    case = Case(
        id=f"h.{said}",
        kind="control",
        model="m",
        dtype="bfloat16",
        engine="vllm",
        control="bfloat16",
    )
    causes = [named(said, 0.6)] if said else []
    return CaseResult(
        case=case, judgement=judge(case, "numerics", causes), causes=tuple(causes),
        diagnosis_s=400, status="numerics",
    )  # fmt: skip


def test_wilson_interval() -> None:
    # Agresti & Coull (1998), and by hand: p = 0.9, n = 20, z² = 3.8415:
    # centre (0.9 + 3.8415/40)/(1 + 3.8415/20) = 0.99604/1.19207 = 0.83555;
    # half 1.95996 * sqrt(0.09/20 + 3.8415/1600)/1.19207 = 1.95996 * 0.083073/1.19207 = 0.13659.
    found = accuracy.share([True] * 18 + [False] * 2)
    assert (found.right, found.n, found.value) == (18, 20, 0.9)
    assert found.ci95 == pytest.approx((0.83555 - 0.13659, 0.83555 + 0.13659), abs=1e-4)


def test_all_right_is_not_certain_and_none_is_not_zero() -> None:
    # p = 1: lower end n/(n + z²) = 10/13.8415.
    assert accuracy.share([True] * 10).ci95 == pytest.approx((10 / 13.8415, 1.0), abs=1e-5)
    nothing = accuracy.share([None, None])
    assert nothing.n == 0
    assert math.isnan(nothing.value)


def test_questions_that_do_not_apply_are_left_out() -> None:
    row = accuracy.row("all", [single("sinks", "sinks"), single("sinks", "theta")])
    assert (row.shares["cause"].right, row.shares["cause"].n) == (1, 2)
    assert row.shares["location"].n == 0  # these faults have no place


def test_severities_come_in_their_order_and_all_at_the_end() -> None:
    results = [single("a", "a", severity=s) for s in ("slight", "plain", "medium")]
    rows = accuracy.table(results, lambda r: r.case.truths[0].severity)
    assert [row.name for row in rows] == ["plain", "medium", "slight", "all"]


def test_confusion() -> None:
    results = [single("sinks", "sinks"), single("sinks", "theta"), single("theta", None)]
    assert accuracy.confusion([*results, control(None), control("theta")]) == {
        "healthy": {"numerics-floor": 1, "theta": 1},
        "sinks": {"sinks": 1, "theta": 1},
        "theta": {"mismatch, unnamed": 1},
    }


def test_calibration_counts_a_false_alarm_as_wrong() -> None:
    results = [single("a", "a", 0.95), single("a", "b", 0.93), single("a", "a", 1.0)]
    bins = {b.low: b for b in accuracy.calibration([*results, control("a"), control(None)])}
    assert (bins[0.9].right.right, bins[0.9].right.n) == (1, 2)
    assert bins[0.9].confidence == pytest.approx(0.94)
    assert (bins[0.99].right.right, bins[0.99].right.n) == (1, 1)
    assert (bins[0.5].right.right, bins[0.5].right.n) == (0, 1)  # the control, 0.6
    assert bins[0.7].right.n == 0


def test_the_aims_speak_of_plain_and_medium() -> None:
    results = [single("a", "a"), single("a", "b", severity="slight"), control(None)]
    goals = {goal.text.partition(":")[0]: goal for goal in accuracy.goals(results)}
    cause = goals["cause right of single faults at plain and medium severity"]
    assert (cause.met, cause.measured) == (True, "1 of 1 (100.0%)")
    assert goals["both causes of double faults"].met is None  # none was run
    assert goals["false alarms on healthy controls"].met is True
    assert goals["median diagnosis within 180 s"].met is True  # of 10, 10 and 400 s


def test_a_card_holds_what_went_wrong_and_what_did_not_run() -> None:
    broken = single("a", "a").model_copy(update={"judgement": None, "problem": "no memory"})
    wrong = single("a", "b")
    card = build_card([wrong, broken, control(None)], 5, "vllm", "full", gather([]))
    assert card.misses == [wrong]
    assert card.not_run == [broken]
    assert (card.planned, card.by_severity[-1].cases) == (5, 1)
    assert card.codes == ["", "abc"]  # results of two versions of the code
    assert card.median_experiments == 2
    assert (card.ties.right, card.ties.n) == (0, 0)  # asked of right answers only


def test_ties_are_counted_apart() -> None:
    tie = single("a", "a")
    case, both = tie.case, [named("b", 0.5), named("a", 0.5)]
    tie = tie.model_copy(update={"judgement": judge(case, "mismatch", both)})
    card = build_card([tie, single("a", "a"), single("a", "b")], 3, "vllm", "full", gather([]))
    assert (card.ties.right, card.ties.n) == (1, 2)
    assert (card.extras.right, card.extras.n) == (1, 3)  # b, where a is planted


def alone(result: CaseResult, *said: str, by: str = "black_box") -> CaseResult:
    """The case with what is said of its captures alone: these causes, equally sure."""
    causes = [named(name, 0.5) for name in said]
    found = BlackBox(
        judgement=judge(result.case, "mismatch", causes), status="mismatch", causes=tuple(causes)
    )
    return result.model_copy(update={by: found})


def test_captures_alone_are_counted_apart() -> None:
    results = [
        alone(single("a", "a"), "b", "a"),  # a tie with the right one is right
        alone(single("a", "a"), "b"),
        alone(single("a", "b")),
        single("a", "a"),  # from before there was such a thing
        alone(control(None)),
    ]
    card = build_card(results, 5, "vllm", "full", gather([]))
    white, black = card.by_severity[-1].shares, card.black_box.by_severity[-1].shares
    assert (white["cause"].right, white["cause"].n) == (3, 4)
    assert (black["cause"].right, black["cause"].n) == (1, 3)
    assert (black["detected"].right, black["detected"].n) == (3, 3)
    # Wilson, 1 of 3: centre (1/3 + 3.8415/6)/(1 + 3.8415/3) = 0.97358/2.28049 = 0.42692;
    # half 1.95996 * sqrt((2/9)/3 + 3.8415/36)/2.28049 = 1.95996 * 0.42520/2.28049 = 0.36544.
    assert black["cause"].ci95 == pytest.approx((0.06148, 0.79236), abs=1e-4)
    assert "location" not in black
    assert (card.black_box.ties.right, card.black_box.ties.n) == (1, 1)
    assert (card.black_box.controls.shares["false_alarm"].right, card.controls.cases) == (1, 1)
    assert card.controls.shares["false_alarm"].right == 0
    assert card.misses == [results[2]]
    assert "b" not in card.confusion.get("healthy", {})


def test_what_is_said_with_a_checkpoint_has_a_column_of_its_own() -> None:
    crashed = BlackBox(judgement=None, problem="no reference")
    results = [
        alone(alone(single("a", "a"), by="recorded"), "a"),  # unnamed with a checkpoint
        alone(single("a", "b"), "a", by="recorded"),  # named with one only
        alone(control(None), "c", by="recorded"),
        single("a", "a", severity="slight").model_copy(update={"recorded": crashed}),
    ]
    card = build_card(results, 4, "hf", "quick", gather([]))
    compared, recorded = card.black_box.by_severity[-1], card.recorded.by_severity[-1]
    assert (compared.shares["cause"].right, compared.cases) == (1, 1)
    assert (recorded.shares["cause"].right, recorded.cases) == (1, 2)
    assert card.recorded.controls.shares["false_alarm"].right == 1
    assert [(miss.case.id, [c.id for c in miss.causes]) for miss in card.recorded.misses] == [
        (results[0].case.id, []),
        ("h.None", ["c"]),
    ]
    assert [(r.case.id, r.problem) for r in card.recorded.unanswered] == [
        (results[3].case.id, "no reference")
    ]
    assert card.misses == [results[1]]
    assert not card.not_run
