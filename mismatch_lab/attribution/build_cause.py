"""A cause as findings hold it: what was seen, with what the catalogue says of it."""

from __future__ import annotations

from typing import Literal

from mismatch_lab.attribution.causes import load_cause
from mismatch_lab.schema import Cause, Confirmation, Observation, Remedy

Side = Literal["infer", "train", "sync", "both", "neither", "undecided"]


def build_cause(
    id: str,
    side: Side,
    confidence: float,
    why: str,
    evidence: list[Observation],
    confirmed_by: list[Confirmation] | None = None,
    location: str | None = None,
    decides: str = "",
) -> Cause:
    """A cause of the catalogue, with family and remedy from its entry.

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
        remedy=Remedy(id=entry.remedy_id, how=entry.remedy),
        why=why,
        decides=decides,
    )
