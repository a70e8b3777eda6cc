"""Rules held against a record. Passed is what lies within its limit with all of its interval; what
cannot be told is never passed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mismatch_lab.attribution.record_causes import COPIED
from mismatch_lab.gate.baseline import Baseline, compared, incomparable
from mismatch_lab.gate.record import Record, delta_of
from mismatch_lab.gate.rules import (
    FLOOR,
    ROUTING,
    AnyRule,
    BaselineRule,
    CausesRule,
    LimitRule,
    Rules,
    SequencesRule,
    StatusRule,
)
from mismatch_lab.measures.rows import row_starts, sum_by_row
from mismatch_lab.measures.stats import share_interval
from mismatch_lab.schema import Cause, EstimateRecord, Measures, Number, Strict

Outcome = Literal["passed", "failed", "underpowered", "error", "skipped"]

WITHOUT_INTERVAL = ("abs_delta_max",)
"""What is said of the tokens that were recorded, and of no others."""


class RuleResult(Strict):
    """What became of one rule."""

    name: str
    outcome: Outcome
    message: str
    reason: str = ""
    """The rule's own."""
    value: Number = math.nan
    ci95: tuple[Number, Number] = (math.nan, math.nan)
    """Of a comparison with a baseline, at its corrected level."""
    limit: Number = math.nan
    n: int = 0
    n_needed: Number = math.nan
    """About so many tokens would decide; infinite where no number would."""


class NamedCause(Strict):
    """A cause as the gate repeats it."""

    id: str
    side: str
    location: str | None
    confidence: float

    @classmethod
    def of(cls, cause: Cause) -> NamedCause:
        """What of a cause is repeated."""
        return cls(
            id=cause.id, side=cause.side, location=cause.location, confidence=cause.confidence
        )

    def __str__(self) -> str:
        where = f" at {self.location}" if self.location else ""
        return f"{self.id} ({self.side}{where}, confidence {self.confidence:.2f})"


class GateResult(Strict):
    """gate.json."""

    schema_version: Literal[1] = 1
    run: str
    outcome: Literal["passed", "failed", "not measured"]
    headline: str
    results: list[RuleResult]
    causes: list[NamedCause]

    @property
    def exit_code(self) -> int:
        """0, 1 or 2."""
        return {"passed": 0, "failed": 1, "not measured": 2}[self.outcome]


@dataclass(frozen=True)
class Given:
    """What rules are held against.

    Attributes:
        record: what was measured.
        baseline: what it is compared with, or None.
        tail: probability left out at each end of an interval against the baseline.
        rules: all of them.
    """

    record: Record
    baseline: Baseline | None
    tail: float
    rules: Rules


def judge(record: Record, rules: Rules, baseline: Baseline | None) -> GateResult:
    """Every rule for this record's probe.

    Args:
        record: what was measured.
        rules: those of a file, or the default ones.
        baseline: one that was named and read, or None where none was named.
    """
    results = [
        RuleResult(name="record", outcome="error", message=problem) for problem in record.problems
    ]
    if record.identical and not rules.allow_identical:
        results.append(RuleResult(name="record", outcome="error", message=IDENTICAL))
    if not results:
        mine = rules.of(record.subject.probe)
        comparisons = max(1, sum(isinstance(rule, BaselineRule) for rule in mine))
        given = Given(record, baseline, rules.false_alarm_rate / comparisons, rules)
        results = [_judge(rule, given) for rule in mine]
        results += [_of_others(rule) for rule in rules.all() if rule not in mine]
    return result_of(record, results)


def _of_others(rule: AnyRule) -> RuleResult:
    """A misspelt probe shows as a rule that is never applied."""
    message = f"for other probes: {', '.join(rule.probes)}"
    return RuleResult(name=rule.name, outcome="skipped", message=message, reason=rule.reason)


IDENTICAL = f"{COPIED} Where both run the same kernels, set allow_identical = true in the rules."


NO_REFERENCE = (
    ": no reference was run, so there is no noise floor (two captures never have one; give limits "
    "of your own with --rules)"
)


def result_of(record: Record, results: Sequence[RuleResult]) -> GateResult:
    """All results as one: failed before not measured before passed."""
    outcomes = {result.outcome for result in results}
    outcome: Literal["passed", "failed", "not measured"]
    if "failed" in outcomes:
        outcome = "failed"
    elif outcomes & {"error", "underpowered"} or "passed" not in outcomes:
        outcome = "not measured"
    else:
        outcome = "passed"
    causes = [NamedCause.of(cause) for cause in record.findings.verdict.causes]
    return GateResult(
        run=record.name,
        outcome=outcome,
        headline=_headline(outcome, results, causes),
        results=list(results),
        causes=causes,
    )


def _headline(outcome: str, results: Sequence[RuleResult], causes: Sequence[NamedCause]) -> str:
    """What failed first, by how much, and of which cause."""
    passed = sum(result.outcome == "passed" for result in results)
    if outcome == "passed":
        skipped = sum(result.outcome == "skipped" for result in results)
        return f"passed: {passed} rules" + (f", {skipped} skipped" if skipped else "")
    decisive = ("failed",) if outcome == "failed" else ("error", "underpowered")
    first = next((one for one in results if one.outcome in decisive), None)
    if first is None:
        return "not measured: no rule applies to this run"
    named = f"; cause: {causes[0]}" if causes else ""
    others = sum(one.outcome in decisive for one in results) - 1
    more = f" (and {others} more)" if others else ""
    kind = outcome if outcome == "failed" else f"{outcome} ({first.outcome})"
    return f"{kind}: {first.name}: {first.message}{more}{named}"


def _judge(rule: AnyRule, given: Given) -> RuleResult:
    if isinstance(rule, StatusRule):
        found = _status(rule, given.record)
    elif isinstance(rule, CausesRule):
        found = _causes(rule, given.record)
    elif isinstance(rule, LimitRule):
        found = _limit(rule, given)
    elif isinstance(rule, SequencesRule):
        found = _sequences(rule, given)
    else:
        found = _against_baseline(rule, given)
    return found.model_copy(update={"reason": rule.reason})


def _status(rule: StatusRule, record: Record) -> RuleResult:
    verdict = record.findings.verdict
    outcome: Outcome = "passed" if verdict.status in rule.allowed else "failed"
    if verdict.status == "underpowered":
        outcome = "underpowered"
    elif verdict.status == "error":
        outcome = "error"
    return RuleResult(name=rule.name, outcome=outcome, message=verdict.headline)


def _causes(rule: CausesRule, record: Record) -> RuleResult:
    verdict = record.findings.verdict
    if verdict.status in ("error", "underpowered"):
        return RuleResult(name=rule.name, outcome="error", message=verdict.headline)
    for cause in verdict.causes:
        if cause.id in rule.forbidden and cause.confidence >= rule.confidence:
            message = f"named: {NamedCause.of(cause)}"
            return RuleResult(name=rule.name, outcome="failed", message=message)
    return RuleResult(name=rule.name, outcome="passed", message="none of them is named")


def _limit(rule: LimitRule, given: Given) -> RuleResult:
    what = f"{rule.edge} {rule.measure}"
    estimate = _measures(given.record, rule.edge).get(rule.measure)
    if estimate is None:
        outcome: Outcome = "skipped" if rule.missing == "skip" else "error"
        alone = rule.edge == FLOOR and given.record.floor is None
        message = f"{what} was not measured{NO_REFERENCE if alone else ''}"
        return RuleResult(name=rule.name, outcome=outcome, message=message)
    if estimate.n and _is_beneath(given, rule.nats_edge, rule.unless_below_nats):
        return _beneath(rule, rule.nats_edge, what, estimate)
    if rule.measure in WITHOUT_INTERVAL:
        estimate = estimate.model_copy(update={"ci95": (estimate.value, estimate.value)})
    problem = _unusable(rule, what, estimate, given)
    return problem or _within(rule, what, estimate)


def _within(rule: LimitRule, what: str, estimate: EstimateRecord) -> RuleResult:
    """The worse of both ends."""
    found = []
    if rule.below is not None:
        found.append(_one_sided(rule.name, what, estimate, rule.below, upper=True))
    if rule.above is not None:
        found.append(_one_sided(rule.name, what, estimate, rule.above, upper=False))
    order = ("failed", "error", "underpowered", "passed")
    return min(found, key=lambda result: order.index(result.outcome))


def _one_sided(
    name: str, what: str, estimate: EstimateRecord, limit: float, upper: bool
) -> RuleResult:
    low, high = estimate.ci95
    near, far = (low, high) if upper else (high, low)  # the end that is furthest within, and not
    within, beyond = (far < limit, near > limit) if upper else (far > limit, near < limit)
    outcome: Outcome = "passed" if within else "failed" if beyond else "underpowered"
    side = "below" if upper else "above"
    message = f"{what} {_number(estimate)}, must lie {side} {limit:.3g}"
    needed = math.nan
    if outcome == "underpowered":
        end = far if (estimate.value < limit) == upper else near
        needed = _needed(estimate.n, end - estimate.value, limit - estimate.value)
        message += f" ({_in_tokens(estimate.n, needed)})"
    return RuleResult(
        name=name, outcome=outcome, message=message, value=estimate.value, ci95=estimate.ci95,
        limit=limit, n=estimate.n, n_needed=needed,
    )  # fmt: skip


def _needed(n: int, half_width: float, distance: float) -> float:
    """Tokens whose interval would end at the limit; widths shrink with the root of their number."""
    return math.inf if distance == 0 else math.ceil(n * (half_width / distance) ** 2)


def _in_tokens(n: int, needed: float) -> str:
    if math.isinf(needed):
        return f"{n} tokens; it lies at the limit, no number decides"
    return f"{n} tokens; about {needed:.0f} would decide"


def _unusable(
    rule: AnyRule, what: str, estimate: EstimateRecord, given: Given
) -> RuleResult | None:
    """The result where an estimate decides nothing, or None."""
    rows, tokens, rules = given.record.n_rows, given.record.n_tokens, given.rules
    outcome: Outcome = "error"
    if estimate.n == 0 or math.isnan(estimate.value):
        why = "no data"
    elif estimate.n_dropped:
        why = f"{estimate.n_dropped} tokens have no log-prob"
    elif _is_thin(given):
        outcome = "underpowered"
        why = f"{tokens} tokens in {rows} sequences; at least {rules.min_tokens} in "
        why += f"{rules.min_rows} decide"
    elif any(math.isnan(end) for end in estimate.ci95):
        why = "it has no interval"
    else:
        return None
    needed = float(rules.min_tokens) if outcome == "underpowered" else math.nan
    message = f"{what}: {why}"
    return RuleResult(
        name=rule.name, outcome=outcome, message=message, n=estimate.n, n_needed=needed
    )


def _is_thin(given: Given) -> bool:
    """Too little to decide anything by."""
    record, rules = given.record, given.rules
    return record.n_rows < rules.min_rows or record.n_tokens < rules.min_tokens


def _measures(record: Record, edge: str) -> Measures:
    """What a limit may be on, by name."""
    if edge == FLOOR:
        return {} if record.floor is None else record.floor.ratios()
    if edge == ROUTING:
        routing = record.findings.routing
        return (
            {} if routing is None else {n: e for n, e in routing if isinstance(e, EstimateRecord)}
        )
    return record.edges.get(edge, {})


def _is_beneath(given: Given, edge: str, limit_nats: float | None) -> bool:
    """Whether the edge's mean |delta| lies below a size from which on it matters."""
    size = given.record.edges.get(edge, {}).get("abs_delta_mean")
    if limit_nats is None or size is None or size.n_dropped or _is_thin(given):
        return False
    return size.ci95[1] < limit_nats  # of NaN it is not


def _beneath(
    rule: LimitRule | BaselineRule, edge: str, what: str, at: EstimateRecord
) -> RuleResult:
    message = (
        f"{edge} mean |delta| lies below {rule.unless_below_nats:g} nats; {what} {_number(at)}"
    )
    return RuleResult(
        name=rule.name, outcome="passed", message=message, value=at.value, ci95=at.ci95, n=at.n
    )


def _sequences(rule: SequencesRule, given: Given) -> RuleResult:
    pairs = given.record.pair(rule.edge)
    if pairs is None or not len(pairs.row_ids):
        return RuleResult(name=rule.name, outcome="error", message=f"no sequences of {rule.edge}")
    limit = _sequence_limit(rule, given.record)
    if math.isnan(limit):
        return RuleResult(name=rule.name, outcome="error", message="no noise floor was measured")
    starts = row_starts(pairs.row_ids)
    values = np.abs(delta_of(pairs))
    if not np.isfinite(values).all():
        return RuleResult(name=rule.name, outcome="error", message="tokens have no log-prob")
    means = sum_by_row(values, starts) / np.diff(np.append(starts, len(values)))
    worst = int(np.argmax(means))
    beyond, n = int((means > limit).sum()), len(means)
    seen = (
        f"{beyond} of {n} sequences of {rule.edge} have a mean |delta| beyond {limit:.3g} nats; "
        f"the worst, row {int(pairs.row_ids[starts[worst]])}, has {means[worst]:.3g}"
    )
    return _shares(rule, seen, beyond, n, limit, given)


def _sequence_limit(rule: SequencesRule, record: Record) -> float:
    limit = rule.below_nats or 0.0
    if rule.below_floors is not None:
        floor = record.floor.precision.value if record.floor is not None else math.nan
        return math.nan if math.isnan(floor) else max(limit, rule.below_floors * floor)
    return limit


def _shares(
    rule: SequencesRule, seen: str, beyond: int, n: int, limit: float, given: Given
) -> RuleResult:
    """None of those recorded, or a share of all that might be."""
    outcome: Outcome
    if n < given.rules.min_rows:
        return RuleResult(
            name=rule.name, outcome="underpowered", message=f"{seen}; only {n} sequences", n=n
        )
    if rule.share is None:
        outcome = "failed" if beyond else "passed"
        return RuleResult(name=rule.name, outcome=outcome, message=seen, limit=limit, n=n)
    low, high = share_interval(beyond, n)
    outcome = "passed" if high < rule.share else "failed" if low > rule.share else "underpowered"
    message = f"{seen}: {beyond / n:.3g} [{low:.3g}, {high:.3g}], must lie below {rule.share:g}"
    return RuleResult(
        name=rule.name, outcome=outcome, message=message, value=beyond / n, ci95=(low, high),
        limit=rule.share, n=n,
    )  # fmt: skip


def _against_baseline(rule: BaselineRule, given: Given) -> RuleResult:
    what = f"{rule.edge} {rule.measure}"
    if given.baseline is None:
        outcome: Outcome = "skipped" if rule.without_baseline == "skip" else "error"
        return RuleResult(
            name=rule.name, outcome=outcome, message="no baseline was given (--baseline FILE)"
        )
    why = incomparable(given.baseline, given.record)
    if why:
        message = f"the baseline cannot be compared: {'; '.join(why)}"
        return RuleResult(name=rule.name, outcome="error", message=message)
    size = given.record.edges.get(rule.edge, {}).get("abs_delta_mean")
    problem = None if size is None else _unusable(rule, what, size, given)
    if problem is not None:
        return problem
    found = compared(given.baseline, given.record, rule.edge, rule.measure, given.tail)
    if size is None or found is None:
        message = f"{rule.edge} is not in both the run and the baseline"
        return RuleResult(name=rule.name, outcome="error", message=message)
    if _is_beneath(given, rule.edge, rule.unless_below_nats):
        return _beneath(rule, rule.edge, what, size)
    if found.shared < MOST_SHARED:
        message = (
            f"{what}: only {found.shared:.0%} of the tokens stand at positions of answers that the "
            "baseline has too; accept a new one"
        )
        return RuleResult(name=rule.name, outcome="error", message=message)
    if math.isnan(found.low):
        message = f"{what}: the baseline or the run has next to nothing of it, so no ratio"
        return RuleResult(name=rule.name, outcome="error", message=message)
    times = EstimateRecord(value=found.ratio, n=size.n, n_dropped=0, ci95=(found.low, found.high))
    return _one_sided(
        rule.name, f"{what}, times the baseline's", times, 1 + rule.increase, upper=True
    )


MOST_SHARED = 0.5
"""Less than this share of a run's tokens at positions that the baseline has as well: what it would
be compared by is the smaller part of it."""


def _number(estimate: EstimateRecord) -> str:
    low, high = estimate.ci95
    return f"{estimate.value:.3g} [{low:.3g}, {high:.3g}]"
