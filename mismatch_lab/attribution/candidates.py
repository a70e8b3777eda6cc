"""Candidates: causes as the stages hand them on, before all are ranked together.

A candidate is a `schema.Cause`: which cause, how sure, the evidence, the place. It is never
changed; a stage that learns more makes another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mismatch_lab.attribution.causes import load_cause
from mismatch_lab.attribution.suspects import Suspect
from mismatch_lab.attribution.thresholds import CONFIDENCE
from mismatch_lab.remedies import fixes_of
from mismatch_lab.schema import Cause, Confirmation, Observation, Remedy, RuledOut

Side = Literal["infer", "train", "sync", "both", "neither", "undecided"]


@dataclass(frozen=True)
class Found:
    """What a stage found."""

    candidates: tuple[Cause, ...] = ()
    formats: tuple[Cause, ...] = ()
    """Coarse formats that log-probs come in; of each side one counts, however often it is met."""
    ruled_out: tuple[RuledOut, ...] = ()
    """By experiments."""
    notes: tuple[str, ...] = ()


NOTHING = Found()


def build_cause(
    id: str,
    side: Side,
    confidence: float,
    why: str,
    evidence: list[Observation],
    confirmed_by: list[Confirmation] | None = None,
    location: str | None = None,
    decides: str = "",
    how: str = "",
) -> Cause:
    """A cause of the catalogue, with family and remedy from its entry; `how` is what to do, where
    more is known of it than the entry says.

    Raises:
        InputError: the catalogue has no such cause.
    """
    entry = load_cause(id)
    return Cause(
        id=id,
        family=entry.family,
        side=side,
        confidence=round(confidence, 3),
        location=location,
        evidence=evidence,
        confirmed_by=confirmed_by or [],
        remedy=Remedy(id=next(iter(fixes_of(id)), None), how=how or entry.remedy),
        why=why,
        decides=decides,
    )


def confirmed_by(cause: Cause, experiment: str, before: float, after: float) -> Cause:
    """The cause with one more experiment that speaks for it, or against it."""
    record = Confirmation(
        experiment=f"{experiment}, mean |delta| in nats", before=before, after=after
    )
    return cause.model_copy(update={"confirmed_by": [*cause.confirmed_by, record]})


def joined(causes: list[Cause]) -> list[Cause]:
    """Causes of one suspect, each once, in their order: evidence of the same one is put together.

    Each way of finding it can err; that all do is less likely than that one does (noisy-or:
    1 - product of what each leaves open). Tied causes (`decides`) stay as they are.
    """
    found: dict[tuple[str, str | None], Cause] = {}
    for number, cause in enumerate(causes):
        key = (cause.id, cause.location) if not cause.decides else (f"{number}", None)
        found[key] = _both(found[key], cause) if key in found else cause
    return list(found.values())


def _both(first: Cause, second: Cause) -> Cause:
    surest = max(first.confidence, second.confidence)
    either = 1 - (1 - first.confidence) * (1 - second.confidence)
    return first.model_copy(
        update={
            "confidence": round(max(surest, min(CONFIDENCE.agreement_at_most, either)), 3),
            "why": f"{first.why} {second.why}",
            "evidence": [*first.evidence, *second.evidence],
            "confirmed_by": [*first.confirmed_by, *second.confirmed_by],
        }
    )


def position_profile(suspect: Suspect) -> list[Observation]:
    """Sign and spread of a suspect's errors."""
    delta = suspect.observed - suspect.expected
    delta = delta[np.isfinite(delta)]
    if not len(delta):
        return []
    size = np.abs(delta)
    mean = float(size.mean())
    return [
        Observation(
            observation="share of tokens on which the suspect is the lower one",
            value=float(np.mean(delta < 0)),
            expected="0.5 for rounding",
        ),
        Observation(
            observation="share of the error carried by the worst tenth of tokens",
            value=float(np.sort(size)[-max(1, len(size) // 10) :].sum() / max(size.sum(), 1e-300)),
            expected="0.3 to 0.4 for rounding" if mean > 0 else "nothing to share",
        ),
    ]
