"""The status of a run: match, numerics, mismatch, underpowered or error, and why.

The checks run in one order; the first that has an answer gives it. Each says in words, with the
numbers it used, what it saw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mismatch_lab.findings.floor_ratios import (
    figure,
    floor_ratios,
    leaving,
    number,
    own_ratios,
)
from mismatch_lab.findings.odd_tokens import in_words, not_measurable
from mismatch_lab.remedies import fixes_of
from mismatch_lab.schema import (
    Cause,
    EstimateRecord,
    Limits,
    Localisation,
    Measures,
    NoiseFloor,
    Observation,
    OddTokens,
    Remedy,
    RoutingFindings,
    Status,
    Verdict,
)

ONE_SIDED = 0.5
"""|mean delta| over mean |delta| from which on a difference is not rounding: rounding of either
side is as often up as down, but for a bias of about half its variance (0.1 at |delta| = 0.2)."""

STANDARD_ERRORS = 4.0
"""And the mean must be this many standard errors away from 0."""

SELF_COMPARISONS = {
    "decode_prefill": "the engine's sampling against its own re-scoring",
    "decode_eager": "the engine's sampling as configured against its own eager code",
    "prefill_eager": "the engine's re-scoring as configured against its own eager code",
    "infer_infer": "the engine against itself",
    "train_train.repeat": "the trainer against itself",
    "train_train": "the trainer against itself in another micro-batch",
    "train_train.train_mode": "the trainer in training mode against evaluation mode",
}


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on."""

    edges: dict[str, Measures]
    floor: NoiseFloor | None
    localisation: Localisation | None
    routing: RoutingFindings | None
    n_rows: int
    weights: tuple[str, ...] = ()
    """Tensors whose fingerprints differ between the sides."""
    edge: str = "decode_train"
    """The edge that the headline speaks of."""
    odd: tuple[OddTokens, ...] = ()
    """Sampled tokens that have no log-prob on one side."""


@dataclass(frozen=True)
class Decision:
    """A status with its headline and the chain that led to it."""

    status: Status
    headline: str
    reasons: list[str]
    causes: list[Cause]


def decide(evidence: Evidence, limits: Limits) -> Decision:
    """Name the status."""
    measures = evidence.edges.get(evidence.edge)
    if measures is None:
        return Decision("error", f"The edge {evidence.edge} was not measured.", [], [])
    delta = measures["abs_delta_mean"]
    seen = f"mean |delta| {number(delta)} nats over {delta.n} tokens"
    broken = _not_measurable(measures, evidence.odd)
    if broken:
        return Decision("error", f"No verdict: {broken}.", [broken], [])
    reasons = [f"{evidence.edge}: {seen}."]
    mismatch = _mismatch_reasons(evidence, measures, limits)
    odd = [in_words(one) for one in evidence.odd]
    if mismatch:
        where = _where(evidence.localisation)
        headline = f"Mismatch: {seen}{_times(evidence.floor)}{where}."
        if odd:
            headline += f" And {odd[0]}"
        return Decision("mismatch", headline, reasons + odd + mismatch, [])
    if odd:
        rest = f"Where both are finite, {seen}{_times(evidence.floor)}."
        return Decision("mismatch", f"Mismatch: {odd[0]} {rest}", reasons + odd, [])
    thin = _underpowered(evidence, delta, limits)
    if thin:
        return Decision("underpowered", f"Too little data to say: {thin}.", [*reasons, thin], [])
    if delta.ci95[1] < limits.match_abs_delta_nats:
        small = (
            f"The 95 % interval lies below the match limit of {limits.match_abs_delta_nats:g} nats."
        )
        return Decision(
            "match", f"The two sides are the same policy: {seen}.", [*reasons, small], []
        )
    return _numerics(evidence, seen, reasons)


def beside_averages(verdict: Verdict, seen: str, told: Sequence[str] = ()) -> Verdict:
    """The verdict where averages over tokens show no mismatch and something else does: a record
    that is no measurement, constants, tokens that are drawn otherwise than reported.

    Args:
        verdict: by the averages.
        seen: the sign, a sentence with its numbers; empty where there is none.
        told: what else the reasons say.
    """
    if not seen:
        return verdict
    told_of = {"headline": f"Mismatch: {seen}", "reasons": [seen, *told]}
    return verdict.model_copy(update={"status": "mismatch", **told_of})


def _not_measurable(measures: Measures, odd: tuple[OddTokens, ...]) -> str:
    """Single tokens without a log-prob are findings; a side without any cannot be compared."""
    whole = not_measurable(odd)
    if whole or measures["abs_delta_mean"].n:
        return whole
    return "no token has a finite log-prob on both sides"


def _mismatch_reasons(evidence: Evidence, measures: Measures, limits: Limits) -> list[str]:
    """Every sign that the difference is more than rounding, the plainest first."""
    mean, size = measures["mean_delta"], measures["abs_delta_mean"]
    reasons = []
    if size.ci95[1] >= limits.match_abs_delta_nats:
        reasons += _beyond_floor(evidence.floor, size, limits)
        if is_one_sided(mean, size):
            reasons.append(
                f"One-sided: mean delta {number(mean)} is {abs(mean.value) / size.value:.0%} of "
                "mean |delta|; rounding is not."
            )
        if evidence.weights:
            others = f" and {len(evidence.weights) - 1} more" if len(evidence.weights) > 1 else ""
            reasons.append(f"The sides hold different weights: {evidence.weights[0]}{others}.")
    reasons += _disagrees_with_itself(evidence, limits)
    reasons += _wrong_module(evidence, limits)
    return reasons


def _wrong_module(evidence: Evidence, limits: Limits) -> list[str]:
    """The first module that is wrong, where its error reaches something."""
    found = evidence.localisation
    if found is None or found.first_divergent_module is None or not _reaches(evidence, limits):
        return []
    module = next(m for m in found.per_module if m.name == found.first_divergent_module)
    error, run = max(module.infer_error, module.train_error), module.worst_run
    if run is not None and run.diverges and error <= limits.module_floor_ratio * module.floor:
        return [
            f"{module.name} leaves its floor first, at {run.stop - run.start} positions on end: "
            f"error {run.error:.2g} ({run.side}), floor there {run.floor:.2g}."
        ]
    return [
        f"{module.name} leaves its floor first: error {error:.2g} ({found.side}), "
        f"floor {module.floor:.2g}, limit {limits.module_floor_ratio:g} times."
    ]


def _reaches(evidence: Evidence, limits: Limits) -> bool:
    """Whether anything that a module's error must reach in the end differs: log-probs on some edge
    (by the match limit, or by more than precision), the experts that are chosen, or weights.

    What differs inside and arrives nowhere is two names for two things, not a defect.
    """
    floor, routing = evidence.floor, evidence.routing
    beyond = floor is not None and any(r.leaves for r in floor_ratios(floor, limits))
    return (
        any(
            measures["abs_delta_mean"].ci95[1] >= limits.match_abs_delta_nats
            for measures in evidence.edges.values()
        )
        or beyond
        or (routing is not None and routing.flipped_token_share.value > 0)
        or bool(evidence.weights)
    )


def _beyond_floor(floor: NoiseFloor | None, size: EstimateRecord, limits: Limits) -> list[str]:
    if floor is None or not floor.precision.n:
        if size.ci95[0] <= limits.match_abs_delta_nats:
            return []
        return [
            f"Above the match limit of {limits.match_abs_delta_nats:g} nats, and no reference was "
            "run that could explain it by precision."
        ]
    return [ratio.reason for ratio in leaving(floor, limits)]


def _disagrees_with_itself(evidence: Evidence, limits: Limits) -> list[str]:
    """A side that contradicts itself by more than two roundings is wrong, whatever the other says.

    RL takes its gradients in training mode, so that counts as the trainer too.
    """
    if evidence.floor is None or not evidence.floor.precision.n:
        return []
    two_roundings = math.sqrt(2) * evidence.floor.precision.ci95[1]
    limit = max(limits.floor_ratio * two_roundings, limits.match_abs_delta_nats)
    return [
        f"{edge} ({what}): mean |delta| {number(size)} nats, beyond {figure(limit)}."
        for edge, what in SELF_COMPARISONS.items()
        if edge in evidence.edges
        and (size := evidence.edges[edge]["abs_delta_mean"]).ci95[0] > limit
    ]


def is_one_sided(mean: EstimateRecord, size: EstimateRecord) -> bool:
    """Whether a difference goes one way as no rounding does; see `ONE_SIDED`."""
    error = (mean.ci95[1] - mean.ci95[0]) / (2 * 1.96)
    if not (math.isfinite(error) and size.value > 0):
        return False
    return abs(mean.value) > max(STANDARD_ERRORS * error, ONE_SIDED * size.value)


def _underpowered(evidence: Evidence, delta: EstimateRecord, limits: Limits) -> str:
    if delta.n < limits.min_tokens:
        return (
            f"{delta.n} sampled tokens, {limits.min_tokens} are needed: more prompts, or longer "
            "answers (--max-tokens)"
        )
    if evidence.n_rows < limits.min_rows:
        return (
            f"{evidence.n_rows} sequences, {limits.min_rows} are needed for an interval: more "
            "prompts, whatever their length"
        )
    floor = evidence.floor
    if floor is None or delta.value < limits.match_abs_delta_nats:
        return ""
    for ratio in own_ratios(floor, limits):
        if ratio.estimate.value > ratio.limit:
            typically = " on the typical token" if ratio.typical else ""
            return (
                f"{ratio.name} is at {number(ratio.estimate)} times the floor{typically}: the "
                f"limit of {ratio.limit:g} lies inside the interval; more tokens make it "
                "narrower"
            )
    return ""


def _numerics(evidence: Evidence, seen: str, reasons: list[str]) -> Decision:
    floor = evidence.floor
    if floor is None or not _measured(floor):
        return Decision("underpowered", f"No reference to explain {seen}.", reasons, [])
    reasons.append(
        f"Within the noise floor: engine {number(floor.infer_ratio)}, trainer "
        f"{number(floor.train_ratio)}, edge {number(floor.edge_ratio)} times "
        f"{number(floor.precision)} nats."
    )
    if floor.typical is not None:
        reasons.append(
            f"Token by token, typically: engine {number(floor.typical.infer)}, trainer "
            f"{number(floor.typical.train)}, edge {number(floor.typical.edge)} times the floor."
        )
    routing = evidence.routing
    if routing is not None and routing.flipped_token_share.value > 0:
        reasons.append(
            f"Routing: {routing.flipped_token_share.value:.1%} of tokens pick another expert in "
            f"some layer and carry {number(routing.abs_delta_flipped)} nats, the others "
            f"{number(routing.abs_delta_unflipped)}."
        )
    cause = Cause(
        id="numerics-floor",
        family="precision",
        side="neither",
        confidence=0.9,
        location=None,
        evidence=[
            Observation(
                observation="edge over noise floor",
                value=floor.edge_ratio.value,
                expected="about 1 where only precision differs",
            )
        ],
        remedy=Remedy(
            id=next(iter(fixes_of("numerics-floor")), None),
            how="Not a bug. To shrink it: fp16 or fp32 on both sides, an fp32 head on both sides, "
            "for MoE routing replay.",
        ),
    )
    headline = f"Precision, not a bug: {seen}{_times(floor)}."
    return Decision("numerics", headline, reasons, [cause])


def _measured(floor: NoiseFloor) -> bool:
    parts = (floor.precision, floor.infer_ratio, floor.train_ratio, floor.edge_ratio)
    return all(part.n for part in parts)


def _times(floor: NoiseFloor | None) -> str:
    if floor is None or not math.isfinite(floor.edge_ratio.value):
        return ""
    return f", {figure(floor.edge_ratio.value)} times the measured noise floor"


def _where(found: Localisation | None) -> str:
    if found is None or found.first_divergent_module is None:
        return ""
    sides = {"infer": "engine", "train": "trainer", "undecided": "side undecided"}
    return f"; first in {found.first_divergent_module} ({sides[str(found.side)]})"
