"""From results to shares, each with its interval. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from statistics import median

from mismatch_lab.measures.stats import share_interval
from mismatch_lab.scorecard.records import (
    SEVERITIES,
    Bin,
    BlackBox,
    CaseResult,
    Goal,
    Judgement,
    Row,
    Share,
)

BINS = (0.0, 0.5, 0.7, 0.9, 0.99, 1.0)
CAPTURES_QUESTIONS = ("detected", "family", "side", "cause")
"""What is asked of a record: it has no modules."""
QUESTIONS = (*CAPTURES_QUESTIONS, "location")
HEALTHY = "healthy"
CAUSE_AIM, DOUBLE_AIM, MEDIAN_AIM_S = 0.95, 0.80, 180.0
CLEAR = ("plain", "medium")


def share(answers: Iterable[bool | None]) -> Share:
    """Right answers among those given, with the Wilson 95 % interval."""
    given = [answer for answer in answers if answer is not None]
    n, right = len(given), sum(given)
    if n == 0:
        return Share(right=0, n=0, value=math.nan, ci95=(math.nan, math.nan))
    return Share(right=right, n=n, value=right / n, ci95=share_interval(right, n))


def judged(results: Iterable[CaseResult], kind: str) -> list[CaseResult]:
    """Results of one kind of case that have a judgement."""
    return [r for r in results if r.case.kind == kind and r.judgement is not None]


def of_record(
    results: Iterable[CaseResult], said: Callable[[CaseResult], BlackBox | None]
) -> list[CaseResult]:
    """The same cases, with what is said of their record as the answer; those that have it."""
    answers = [(result, said(result)) for result in results]
    # All that a black box holds, a result has under the same name.
    return [r.model_copy(update=dict(box)) for r, box in answers if box is not None]


def row(name: str, results: list[CaseResult], questions: tuple[str, ...] = QUESTIONS) -> Row:
    """One line of a table."""
    answers = {q: [getattr(_of(result), q) for result in results] for q in questions}
    return Row(name=name, cases=len(results), shares={q: share(a) for q, a in answers.items()})


def table(
    results: list[CaseResult],
    key: Callable[[CaseResult], str],
    questions: tuple[str, ...] = QUESTIONS,
) -> list[Row]:
    """A line for each value of `key`, and one for all."""
    names = sorted({key(result) for result in results}, key=_severities_first)
    rows = [row(name, [r for r in results if key(r) == name], questions) for name in names]
    return [*rows, row("all", results, questions)]


def clear(singles: list[CaseResult]) -> list[CaseResult]:
    """The single faults that the aims speak of: at plain and medium severity."""
    return [result for result in singles if result.case.truths[0].severity in CLEAR]


def ties(singles: list[CaseResult]) -> Share:
    """Right answers that share their confidence with wrong ones."""
    return share(_of(result).tied for result in singles if _of(result).cause)


def extras(results: list[CaseResult]) -> Share:
    """Answers that also name something that was not planted, ties with the right one aside."""
    return share(_of(result).extra > 0 for result in results)


def confusion(results: list[CaseResult]) -> dict[str, dict[str, int]]:
    """Planted cause -> named -> cases; controls are planted as `healthy`."""
    counts: dict[str, dict[str, int]] = {}
    for result in [*judged(results, "single"), *judged(results, "control")]:
        verdict, truths = _of(result), result.case.truths
        # Where several names are right for one fault, whichever was given stands for it.
        right = verdict.named if truths and verdict.cause else None
        planted = right or (truths[0].causes[0] if truths else HEALTHY)
        line = counts.setdefault(planted, {})
        line[verdict.named] = line.get(verdict.named, 0) + 1
    return {planted: dict(sorted(line.items())) for planted, line in sorted(counts.items())}


def calibration(results: list[CaseResult]) -> list[Bin]:
    """How often an answer of some confidence is right, naming a bug in a control being wrong."""
    answers = [
        (_of(result).confidence, bool(_of(result).cause))
        for result in [*judged(results, "single"), *judged(results, "control")]
        if math.isfinite(_of(result).confidence)
    ]
    bins = []
    for low, high in pairwise(BINS):
        top = high == BINS[-1]
        inside = [a for a in answers if low <= a[0] < high or (top and a[0] == high)]
        mean = sum(confidence for confidence, _ in inside) / len(inside) if inside else math.nan
        bins.append(Bin(low=low, high=high, confidence=mean, right=share(r for _, r in inside)))
    return bins


def middle(values: Iterable[float | None]) -> float:
    """Median of the numbers among the values; NaN without any."""
    finite = [float(value) for value in values if value is not None and math.isfinite(value)]
    return median(finite) if finite else math.nan


def goals(results: list[CaseResult]) -> list[Goal]:
    """The aims of the card."""
    singles = row("", clear(judged(results, "single"))).shares
    both = share(_of(result).both for result in judged(results, "double"))
    alarms = share(_of(result).false_alarm for result in judged(results, "control"))
    time_s = middle(result.diagnosis_s for result in results)
    clear_words = "of single faults at plain and medium severity"
    return [
        _share_goal(f"family right {clear_words}: all", singles["family"], 1.0),
        _share_goal(f"side right {clear_words}: all", singles["side"], 1.0),
        _share_goal(f"cause right {clear_words}: {CAUSE_AIM:.0%}", singles["cause"], CAUSE_AIM),
        _share_goal(f"both causes of double faults: {DOUBLE_AIM:.0%}", both, DOUBLE_AIM),
        Goal(
            text="false alarms on healthy controls: none",
            met=alarms.right == 0 if alarms.n else None,
            measured=f"{alarms.right} of {alarms.n}" if alarms.n else "not measured",
        ),
        Goal(
            text=f"median diagnosis within {MEDIAN_AIM_S:.0f} s",
            met=time_s <= MEDIAN_AIM_S if math.isfinite(time_s) else None,
            measured=f"{time_s:.0f} s" if math.isfinite(time_s) else "not measured",
        ),
    ]


def is_miss(result: CaseResult) -> bool:
    """Anything wrong in the answer."""
    return bool(_wrong(result))


def is_miss_of_place(result: CaseResult) -> bool:
    """Nothing is wrong in the answer but the location."""
    return _wrong(result) == ["location"]


def _wrong(result: CaseResult) -> list[str]:
    """The questions whose answer is wrong."""
    found = result.judgement
    if found is None:
        return []
    wrong = [question for question in (*QUESTIONS, "both") if getattr(found, question) is False]
    return [*wrong, "false_alarm"] if found.false_alarm else wrong


def planted_family(result: CaseResult) -> str:
    """Family of a single fault."""
    return result.case.truths[0].families[0]


def _of(result: CaseResult) -> Judgement:
    assert result.judgement is not None, "callers keep to judged results"
    return result.judgement


def _share_goal(text: str, found: Share, aim: float) -> Goal:
    if not found.n:
        return Goal(text=text, met=None, measured="not measured")
    measured = f"{found.right} of {found.n} ({found.value:.1%})"
    return Goal(text=text, met=found.value >= aim, measured=measured)


def _severities_first(name: str) -> tuple[int, str]:
    return (SEVERITIES.index(name) if name in SEVERITIES else len(SEVERITIES), name)
