"""From results to the card that is printed, stored and shown."""

from __future__ import annotations

from mismatch_lab.schema import Provenance
from mismatch_lab.scorecard import accuracy
from mismatch_lab.scorecard.records import BlackBoxCard, CaseResult, Scorecard

DOUBLE_QUESTIONS = ("detected", "cause", "both", "side")
CONTROL_QUESTIONS = ("false_alarm",)


def build_card(
    results: list[CaseResult], planned: int, engine: str, subset: str, provenance: Provenance
) -> Scorecard:
    """All shares, the aims, and what went wrong."""
    singles = accuracy.judged(results, "single")
    doubles = accuracy.judged(results, "double")
    controls = accuracy.judged(results, "control")
    return Scorecard(
        provenance=provenance,
        engine=engine,
        subset=subset,
        planned=planned,
        codes=sorted({result.code for result in results}),
        goals=accuracy.goals(results),
        by_severity=accuracy.table(singles, lambda r: r.case.truths[0].severity),
        by_family=accuracy.table(accuracy.clear(singles), accuracy.planted_family),
        by_model=accuracy.table(accuracy.clear(singles), lambda r: r.case.model),
        doubles=accuracy.row("double faults", doubles, DOUBLE_QUESTIONS),
        controls=accuracy.row("healthy controls", controls, CONTROL_QUESTIONS),
        ties=accuracy.ties(singles),
        extras=accuracy.extras([*singles, *doubles]),
        black_box=_black_box(accuracy.of_record(results, lambda r: r.black_box)),
        recorded=_black_box(accuracy.of_record(results, lambda r: r.recorded)),
        confusion=accuracy.confusion(results),
        calibration=accuracy.calibration(results),
        median_diagnosis_s=accuracy.middle(result.diagnosis_s for result in results),
        median_experiments=accuracy.middle(result.experiments for result in results),
        misses=[result for result in results if accuracy.is_miss(result)],
        not_run=[result for result in results if result.judgement is None],
    )


def _black_box(answers: list[CaseResult]) -> BlackBoxCard:
    singles = accuracy.judged(answers, "single")
    doubles = accuracy.judged(answers, "double")
    controls = accuracy.judged(answers, "control")
    asked = accuracy.CAPTURES_QUESTIONS
    clear = accuracy.clear(singles)
    return BlackBoxCard(
        by_severity=accuracy.table(singles, lambda r: r.case.truths[0].severity, asked),
        by_family=accuracy.table(clear, accuracy.planted_family, asked),
        doubles=accuracy.row("double faults", doubles, DOUBLE_QUESTIONS),
        controls=accuracy.row("healthy controls", controls, CONTROL_QUESTIONS),
        ties=accuracy.ties(singles),
        extras=accuracy.extras([*singles, *doubles]),
        misses=[answer for answer in answers if accuracy.is_miss(answer)],
        unanswered=[answer for answer in answers if answer.judgement is None],
    )
